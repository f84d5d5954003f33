"""Run a plan on Ray: an actor for every part, linked from the ingest to the emitters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions

from polku.actors.buffer import BufferActor
from polku.actors.door import RayDoor
from polku.actors.emitter import EmitterActor
from polku.actors.hub import HubActor, Parts
from polku.actors.ingest import IngestActor
from polku.actors.options import SYSTEM_CONFIG
from polku.actors.shell import pack
from polku.actors.stage import StageActor
from polku.assembly import EmitterReport, StopReport, report_outcome
from polku.dead_letters import DeadLetter
from polku.emit.console import UNWRITABLE, DirectConsole
from polku.errors import MisconfiguredError, NotRunningError, PolkuError
from polku.gateway.doors import Addresses, Doors
from polku.gateway.health import Health
from polku.plan import Plan, StagePlan
from polku.sender import Door

_START_SECONDS = 30.0  # how long an actor may be away while it is being started
_HUB_INTERVAL = 2.0  # seconds between two words to the hub


class RayRuntime:
    """Place and connect the actors; attach to a running Ray, or start one and stop it again."""

    def __init__(self, plan: Plan, doors: Doors) -> None:
        self._plan = plan
        self._doors = doors
        self._addresses = Addresses()
        self._parts: Parts | None = None
        self._hub: Any = None
        # Ray installs its signal handlers from the main thread only, so it is started there where that is possible.
        main = threading.current_thread() is threading.main_thread()
        self._started_ray = attach() if main else False
        self._consoles: list[asyncio.Task[None]] = []
        self._hub_watch: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> Addresses:
        """Where the gateway is open, if it is."""
        return self._addresses

    @property
    def parts(self) -> Parts:
        """The handles of the actors."""
        if self._parts is None:
            raise NotRunningError("the pipeline has not started")
        return self._parts

    @property
    def hub(self) -> Any:
        """The handle of the actor that supervises the others."""
        return self._hub

    async def start(self) -> None:
        """Create the actors from the back to the front and wait until each has started."""
        self._started_ray = await asyncio.to_thread(attach) or self._started_ray
        try:
            await self._create()
        except ray.exceptions.RayTaskError as error:
            await self._kill()
            if isinstance(error.cause, PolkuError):
                raise error.cause from None
            raise
        except BaseException:
            await self._kill()
            raise

    async def stop(self, timeout: float) -> StopReport:
        """Stop accepting, flush stages, empty outlets, close emitters: one deadline for all of it."""
        started = time.monotonic()
        complete = True
        try:
            await asyncio.wait_for(self._drain(), timeout)
        except (TimeoutError, ray.exceptions.RayError):
            complete = False
        emitters = await self._outcome()
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
            await asyncio.wait_for(self._close(), 5.0)
        await self._kill()
        return StopReport(emitters, complete, time.monotonic() - started)

    async def health(self) -> Health:
        """Ask the supervising actor."""
        try:
            health: Health = await self._hub.health.remote()
        except ray.exceptions.RayError as error:
            return Health(False, {"hub": (False, f"does not answer: {type(error).__name__}")}, 0)
        return health

    def health_nowait(self) -> None:
        """Return nothing: the parts are in other processes."""
        return

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the latest events that could not be delivered, oldest first."""
        parts = self.parts
        # On disk all of them are in one file; in memory each part has its own.
        where = [parts.buffer] if self._plan.dead_letters else [parts.ingest, *parts.stages.values(), parts.buffer]
        found = [letter for handle in where for letter in await _call(handle.dead_letters.remote())]
        return sorted(found, key=lambda letter: letter.time_ns)

    def door(self) -> Door:
        """The way in for senders, picklable."""
        return RayDoor(self.parts.ingest)

    async def _create(self) -> None:
        emitters: dict[str, Any] = {outlet.name: EmitterActor.remote(pack(outlet)) for outlet in self._plan.outlets}
        buffer: Any = BufferActor.remote(pack(self._plan, emitters))
        stages: dict[str, Any] = {}
        receiver: Any = buffer
        for stage in reversed(self._plan.stages):
            receiver = stages[stage.name] = self._stage(stage, receiver)
        ingest: Any = IngestActor.remote(pack(self._plan, receiver))
        self._parts = Parts(ingest, dict(reversed(stages.items())), buffer, emitters)
        await asyncio.gather(*(_start(handle.vitals) for handle in [*emitters.values(), buffer]))
        await asyncio.gather(*(_start(handle.vitals) for handle in stages.values()))
        self._addresses = await _start(ingest.introduce, None, self._doors)
        # After a restart the ingest opens the very same ports again.
        doors = replace(self._doors, grpc_addr=self._addresses.grpc, http_addr=self._addresses.http)
        self._hub = HubActor.remote(pack(self._parts, doors, self._plan.hang_seconds))
        await _start(self._hub.start)
        await _start(ingest.introduce, self._hub, doors)
        self._hub_watch = asyncio.ensure_future(_keep_watching(self._hub))
        self._consoles = [asyncio.ensure_future(_write_console(handle)) for handle in self._printing(emitters)]

    def _stage(self, stage: StagePlan, receiver: Any) -> Any:
        needs = stage.resources
        actor: Any = StageActor
        placed = actor.options(num_cpus=needs.num_cpus, num_gpus=needs.num_gpus, resources=dict(needs.custom))
        return placed.remote(pack(self._plan, stage, receiver))

    def _printing(self, emitters: dict[str, Any]) -> list[Any]:
        return [emitters[o.name] for o in self._plan.outlets if getattr(o.emitter, "writes_to_console", False)]

    async def _drain(self) -> None:
        parts = self.parts
        drain = asyncio.ensure_future(_call(parts.ingest.drain.remote()))
        while not drain.done():
            # Inputs of a holder are only answered when it lets go, so stages are flushed while the ingest drains.
            for stage in parts.stages.values():
                await _call(stage.flush.remote())
            await _call(parts.buffer.flush.remote())
            await asyncio.wait([drain], timeout=0.05)
        await drain
        await _call(parts.buffer.drain.remote())
        await _call(parts.ingest.close.remote(1.0))  # until here it told clients that the pipeline is draining

    async def _outcome(self) -> dict[str, EmitterReport]:
        if self._parts is None:
            return {}
        try:
            statistics = await asyncio.wait_for(_call(self._parts.buffer.statistics.remote()), 5.0)
        except (TimeoutError, ray.exceptions.RayError):
            return {}
        return report_outcome(self._plan, statistics.outlets)

    async def _close(self) -> None:
        parts = self.parts
        for handle in [*parts.stages.values(), parts.buffer, *parts.emitters.values()]:
            await _call(handle.close.remote())

    async def _kill(self) -> None:
        for task in [*self._consoles, *([self._hub_watch] if self._hub_watch else [])]:
            task.cancel()
        handles = [*self._parts.all().values()] if self._parts else []
        for handle in [self._hub, *handles] if self._hub else handles:
            ray.kill(handle, no_restart=True)
        if self._started_ray:
            await asyncio.to_thread(ray.shutdown)


def attach() -> bool:
    """Connect to the Ray that runs here, or start one; return whether it was started (and is ours to stop)."""
    if ray.is_initialized():
        return False
    try:
        ray.init(address="auto", namespace="polku", log_to_driver=True, logging_level=logging.WARNING)
    except ConnectionError:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers are 15 steps nicer than other programs
        ray.init(
            address="local",
            namespace="polku",
            include_dashboard=False,
            logging_level=logging.WARNING,
            _system_config=SYSTEM_CONFIG,
        )
    return True


async def _call(ref: Any) -> Any:
    return await ref


async def _start(method: Any, *arguments: object) -> Any:
    """Call a method of an actor that is being started; one that dies meanwhile is started again by Ray."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return await method.remote(*arguments)
        except ray.exceptions.ActorUnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _keep_watching(hub: Any) -> None:
    """See to it that a hub that Ray has started again begins to watch again."""
    while True:
        await asyncio.sleep(_HUB_INTERVAL)
        with contextlib.suppress(ray.exceptions.RayError):
            await hub.start.remote()


async def _write_console(emitter: Any) -> None:
    """Write what an emitter prints to this program's standard output, and confirm it."""
    written, fault = 0, ""
    console = DirectConsole()  # its threads do not keep the program from ending
    while True:
        try:
            written, text = await emitter.next_output.remote(written, fault)
        except ray.exceptions.RayActorError:
            await asyncio.sleep(0.5)
            written, fault = 0, ""
            continue
        try:
            await console.write(text)
            fault = ""
        except MisconfiguredError as error:
            fault = str(error).removeprefix(UNWRITABLE)
