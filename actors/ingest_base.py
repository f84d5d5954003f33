"""What the actors that clients talk to have in common: the gateway's doors in front of an intake."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray.exceptions

from polku.actors.kept import Farewell, keep_farewell, kept_farewell
from polku.actors.shell import Shell, started
from polku.actors.surroundings import Surroundings
from polku.errors import UnavailableError
from polku.gateway.addresses import Addresses, Doors, check_free
from polku.gateway.gateway import Gateway, check_doors
from polku.gateway.intake import Intake
from polku.gateway.reservation import Reservation, reserve_doors
from polku.health import Health
from polku.plan import Plan
from polku.runtime.assembly import build_registry

if TYPE_CHECKING:
    from polku.external.callback import Callback


class IngestBase(Shell):
    """Open the doors once the supervisor says where, and answer what comes in through them."""

    def __init__(self, packed: bytes, surroundings: Surroundings) -> None:
        super().__init__(packed, surroundings)
        self._plan: Plan
        self._supervisor: Any = None
        self._scope = ""
        self._gateway: Gateway | None = None
        self._opening = asyncio.Lock()
        self._farewell = Farewell()
        self._reserved: Reservation | None = None

    @property
    def intake(self) -> Intake:
        """What takes messages in."""
        raise NotImplementedError

    async def claim(self, doors: Doors) -> None:
        """Raise `SettingError` where somebody else has a port that the lanes are going to share.

        The supervisor may have had them opened here already: it learns of a lane that joins while that is started.
        """
        async with self._opening:
            if self._gateway is None:
                for name, address in doors.addresses.items():
                    check_free(name, address)

    async def reserve_doors(self, before: Doors, doors: Doors, *, alone: bool) -> Doors:
        """Open the ports that a change moves to, before anything is changed, and return the doors with them.

        Raises `SettingError` where the doors could not be opened again so. With `alone` no other lane has opened them.
        """
        await self.abandon_doors()
        check_doors(doors)
        self._reserved = await reserve_doors(before, doors, alone=alone)
        return self._reserved.doors

    async def abandon_doors(self) -> None:
        """Close the ports that were reserved."""
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            reserved.close()

    @started
    async def introduce(self, supervisor: Any, doors: Doors, scope: str = "") -> Addresses:
        """Learn who supervises, open the doors unless they are open, and return where they are.

        Those that are open so far are opened again for a later version; raises `SettingError` where that cannot be.
        `scope` is what health and metrics at these doors are about: the name of one lane, or (empty) the pipeline.
        Those of a lane that leaves stay closed.
        """
        self._supervisor, self._scope = supervisor, scope
        if self._farewell.leaves:
            return Addresses()
        async with self._opening:
            if self._gateway is None:
                registry = build_registry(self._plan, self.intake, self._assign)
                gateway = Gateway(self.intake, self._health, registry, self._metrics)
                await gateway.open(doors, self._reserved)
                self._gateway = gateway
            elif self._gateway.version < doors.version:
                await self._gateway.exchange(doors, self._reserved)
                await self.abandon_doors()
        return self._gateway.addresses

    async def submit(self, message: bytes) -> bytes:
        """Take a serialised `IngestBatch` from inside the application and return its serialised `Ack`.

        Raises `UnavailableError` where another lane is to be asked, as this one is about to go.
        """
        if not self._started:
            await self.ensure_started()
        if self._farewell.leaves:
            raise UnavailableError("this lane is about to go; another lane takes events")
        return (await self.intake.batch(message)).SerializeToString()

    @started
    async def leave_doors(self) -> None:
        """Take nothing new, and return when clients have their answers and have been asked to connect elsewhere."""
        await self._say_farewell(self._farewell._replace(leaves=True))
        if self._gateway is not None:
            await self._gateway.leave()

    @started
    async def staying(self) -> dict[str, int]:
        """Return how many connections have not been asked to leave, by the names of the settings of addresses."""
        return {} if self._gateway is None or self._farewell.leaves else self._gateway.staying()

    @started
    async def shed(self, counts: Mapping[str, int], seconds: float) -> None:
        """Ask that many connections of each address to go on elsewhere, within some seconds."""
        if self._gateway is not None and not self._farewell.leaves:
            self._gateway.shed(counts, seconds)

    @started
    async def come_back(self) -> None:
        """Take events again: the doors are opened again when the supervisor says where."""
        async with self._opening:
            gateway, self._gateway = self._gateway, None
            if gateway is not None:
                await gateway.close(0)
            await self._say_farewell(Farewell())

    @started
    async def drain_ingest(self) -> None:
        """Refuse what is new; return when everything taken in has its answer."""
        self.intake.stop()
        await self._say_farewell(self._farewell._replace(drains=True))
        if self._gateway is not None:
            await self._gateway.stop_serving()
        await self.intake.drain()

    async def close_doors(self, grace: float) -> None:
        """Give open calls `grace` seconds to end, and close the ports."""
        if self._gateway is not None:
            await self._gateway.close(grace)

    async def close(self) -> None:
        """Close the doors, and then what is behind them."""
        await self.close_doors(0)
        await super().close()

    async def _recall_farewell(self) -> Farewell:
        """Return what a life before was told: this one takes nothing that the others have not counted on."""
        if name := await self.own_name():
            self._farewell = await asyncio.to_thread(kept_farewell, name)
        return self._farewell

    async def _say_farewell(self, farewell: Farewell) -> None:
        """Take note of it, also for a life that comes after this one."""
        if farewell == self._farewell:
            return
        self._farewell = farewell
        if name := await self.own_name():
            await asyncio.to_thread(keep_farewell, name, farewell)

    async def _assign(self, name: str, where: Callback | None) -> None:
        """Tell the emitter that is a place for a plugin where its plugin is."""
        if self._supervisor is None:
            raise UnavailableError("the pipeline is still starting; register again later")
        try:
            await self._supervisor.assign.remote(name, where)
        except ray.exceptions.RayError as error:
            raise UnavailableError(f"emitter {name!r} does not answer: {type(error).__name__}") from None

    async def _metrics(self, accept: str) -> tuple[bytes, str]:
        from polku.monitoring.exposition import write_metrics

        if self._supervisor is None:
            raise UnavailableError("the pipeline is still starting")
        try:
            return write_metrics(await self._supervisor.statistics.remote(self._scope), accept)
        except ray.exceptions.RayError as error:
            raise UnavailableError(f"the supervisor does not answer: {type(error).__name__}") from None

    async def _health(self) -> Health:
        if self._supervisor is None:
            return Health(True, {"ingest": (True, "ok")}, self.intake.statistics().received)
        try:
            health: Health = await self._supervisor.health.remote(self._scope)
        except ray.exceptions.RayError as error:
            raise UnavailableError(f"the supervisor does not answer: {type(error).__name__}") from None
        return health
