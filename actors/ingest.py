"""The actor that clients talk to: the gateway's door and the intake behind it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import ray
import ray.exceptions

from polku.actors.options import ACTOR
from polku.actors.peer import RayPeer
from polku.actors.shell import Shell, unpack
from polku.assembly import build_dead_letters, build_intake, build_registry, build_sources, replay_to_intake
from polku.dead_letters import DeadLetter, DeadLetters
from polku.errors import UnavailableError
from polku.gateway.doors import Addresses, Doors
from polku.gateway.health import Health
from polku.gateway.intake import Intake, IntakeStatistics
from polku.gateway.opening import Gateway
from polku.link import Link
from polku.plan import Plan


class IngestShell(Shell):
    """Take messages in, push their events to the next actor, acknowledge them."""

    def __init__(self, packed: bytes) -> None:
        super().__init__()
        self._plan: Plan
        self._receiver: Any
        self._plan, self._receiver = unpack(packed)
        self._hub: Any = None
        self._gateway: Gateway | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Build the intake and start its ingestors; the door opens once the supervisor says where."""
        self._dead_letters: DeadLetters = build_dead_letters(self._plan)
        bury = partial(self._dead_letters.bury, "")
        link = Link(f"{self._plan.name}/ingest", RayPeer(self._receiver, "next actor"), bury=bury)
        self._intake: Intake = build_intake(self._plan, link)
        build_sources(self._plan, self._intake, self._dead_letters)
        await self._intake.start()
        replay_to_intake(self._plan, self._dead_letters, self._intake)

    async def introduce(self, hub: Any, doors: Doors) -> Addresses:
        """Learn who supervises, open the doors unless they are open, and return where they are."""
        await self.ensure_started()
        self._hub = hub
        async with self._opening:
            if self._gateway is None:
                registry = build_registry(self._plan, self._intake, self._assign)
                gateway = Gateway(self._intake, self._health, registry)
                await gateway.open(doors)
                self._gateway = gateway
        return self._gateway.addresses

    async def submit(self, message: bytes) -> bytes:
        """Take a serialised `IngestBatch` from inside the application and return its serialised `Ack`."""
        await self.ensure_started()
        return (await self._intake.batch(message)).SerializeToString()

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters that are kept here."""
        await self.ensure_started()
        return await self._dead_letters.stored()

    async def statistics(self) -> IntakeStatistics:
        """Return a snapshot of the counters."""
        await self.ensure_started()
        return self._intake.statistics()

    async def drain(self) -> None:
        """Refuse what is new; return when everything taken in has its answer."""
        await self.ensure_started()
        self._intake.stop()
        if self._gateway is not None:
            await self._gateway.stop_serving()
        await self._intake.drain()

    async def close(self, grace: float) -> None:
        """Close the door and the ingestors."""
        if self._started:
            if self._gateway is not None:
                await self._gateway.close(grace)
            await self._intake.close()
            await self._dead_letters.close()

    async def _assign(self, name: str, address: str | None) -> None:
        """Tell the emitter that is a place for a plugin where its plugin is."""
        if self._hub is None:
            raise UnavailableError("the pipeline is still starting; register again later")
        try:
            await self._hub.assign.remote(name, address)
        except ray.exceptions.RayError as error:
            raise UnavailableError(f"emitter {name!r} does not answer: {type(error).__name__}") from None

    async def _health(self) -> Health:
        if self._hub is None:
            return Health(True, {"ingest": (True, "ok")}, self._intake.statistics().received)
        health: Health = await self._hub.health.remote()
        return health


IngestActor = ray.remote(**ACTOR)(IngestShell)
