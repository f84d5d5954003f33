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

from polku.actors.arrangement import arrange, this_node
from polku.actors.door import RayDoor
from polku.actors.hub import HubActor, Parts
from polku.actors.options import SYSTEM_CONFIG
from polku.actors.shell import pack
from polku.assembly import EmitterReport, StopReport, add_up, report_outcome
from polku.dead_letters import DeadLetter
from polku.emit.console import UNWRITABLE, DirectConsole
from polku.errors import MisconfiguredError, NotRunningError, PolkuError
from polku.gateway.doors import Addresses, Doors
from polku.gateway.health import Health
from polku.lane import LaneStatistics
from polku.plan import Plan
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
        where = [parts.lanes[0].buffer] if self._plan.dead_letters else _bury_places(parts)
        found = [letter for handle in where for letter in await _call(handle.dead_letters.remote())]
        return sorted(found, key=lambda letter: letter.time_ns)

    def door(self) -> Door:
        """The way in for senders, picklable."""
        return RayDoor([lane.ingest for lane in self.parts.lanes])

    async def _create(self) -> None:
        self._parts = parts = arrange(self._plan)
        shared = len(parts.lanes) > 1
        doors = replace(self._doors, shared=shared)
        behind = [handle for name, handle in parts.all().items() if name not in {lane.door for lane in parts.lanes}]
        await asyncio.gather(*(_start(handle.vitals) for handle in behind))
        if shared:
            await _start(parts.lanes[0].ingest.claim, doors)
        for lane in parts.lanes:
            # The first lane finds the ports; the others open the very same ones, as they all do after a restart.
            self._addresses = await _start(lane.ingest.introduce, None, doors)
            doors = replace(doors, grpc_addr=self._addresses.grpc, http_addr=self._addresses.http)
        hub: Any = HubActor
        self._hub = hub.options(resources=this_node()).remote(pack(parts, doors, self._plan.hang_seconds))
        await _start(self._hub.start)
        for lane in parts.lanes:
            await _start(lane.ingest.introduce, self._hub, doors)
        self._hub_watch = asyncio.ensure_future(_keep_watching(self._hub))
        self._consoles = [asyncio.ensure_future(_write_console(handle)) for handle in self._printing(parts)]

    def _printing(self, parts: Parts) -> list[Any]:
        names = [o.name for o in self._plan.outlets if getattr(o.emitter, "writes_to_console", False)]
        handles = [lane.emitters[name] for lane in parts.lanes for name in names]
        return list({id(handle): handle for handle in handles}.values())

    async def _drain(self) -> None:
        parts = self.parts
        drain = asyncio.gather(*(_call(lane.ingest.drain_ingest.remote()) for lane in parts.lanes))
        drain.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody waits any more
        flushed = [*parts.stages(), *(lane.buffer for lane in parts.lanes)]
        while not drain.done():
            # Inputs of a holder are only answered when it lets go, so stages are flushed while the ingest drains.
            for stage in flushed:
                await _call(stage.flush.remote())
            await asyncio.wait([drain], timeout=0.05)
        await drain
        await asyncio.gather(*(_call(lane.buffer.drain_buffer.remote()) for lane in parts.lanes))
        for lane in parts.lanes:  # until here it told clients that the pipeline is draining
            await _call(lane.ingest.close_doors.remote(1.0))

    async def _outcome(self) -> dict[str, EmitterReport]:
        if self._parts is None:
            return {}
        try:
            asked = asyncio.gather(*(_call(lane.buffer.statistics.remote()) for lane in self._parts.lanes))
            seen = await asyncio.wait_for(asked, 5.0)
        except (TimeoutError, ray.exceptions.RayError):
            return {}
        buffers = [s.buffer if isinstance(s, LaneStatistics) else s for s in seen]
        reports = [report_outcome(self._plan, statistics.outlets) for statistics in buffers]
        return {name: add_up([report[name] for report in reports]) for name in reports[0]}

    async def _close(self) -> None:
        for handle in self.parts.all().values():
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
    if os.environ.get("RAY_ADDRESS") != "local":  # Ray would start one itself then, without what we set
        with contextlib.suppress(ConnectionError):
            ray.init(address="auto", namespace="polku", log_to_driver=True, logging_level=logging.WARNING)
            return False
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers are 15 steps nicer than other programs
    ray.init(
        address="local",
        namespace="polku",
        include_dashboard=False,
        logging_level=logging.WARNING,
        _system_config=SYSTEM_CONFIG,
    )
    return True


def _bury_places(parts: Parts) -> list[Any]:
    lanes = [handle for lane in parts.lanes for handle in (lane.ingest, lane.buffer)]
    return list({id(handle): handle for handle in [*lanes, *parts.stages()]}.values())


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
