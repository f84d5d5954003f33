"""Run a whole pipeline in this process: the same objects as on Ray, connected by plain awaits in one event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable

from polku.assembly import (
    EmitterReport,
    StopReport,
    build_buffer,
    build_dead_letters,
    build_delivery,
    build_intake,
    build_registry,
    build_sources,
    build_stage,
    replay_to_intake,
    replay_to_outlets,
    report_outcome,
)
from polku.buffer.buffer import Buffer
from polku.dead_letters import DeadLetter, DeadLetters
from polku.delivery import Delivery
from polku.errors import NotRunningError
from polku.gateway.doors import Addresses, Doors
from polku.gateway.health import Health
from polku.gateway.intake import Intake
from polku.gateway.opening import Gateway
from polku.link import Link, Local, Receiver, Window
from polku.plan import Plan
from polku.runtime import loop_thread
from polku.runtime.watch import Progress, Watch
from polku.sender import Door
from polku.stage import Stage

# Neighbours in one process cost nothing to call, so only the first link joins; the others keep each batch's identity.
_SINGLE = Window(join_events=0)

# Without a hop to pay for, joins only have to spare small messages the work of each; 4,096 decoded events would no
# longer fit into a core's cache between one step and the next.
_JOINED = Window(join_events=1024, join_bytes=256 * 1024)


class InlineRuntime:
    """Connect intake, stages, buffer and deliveries within one event loop."""

    def __init__(self, plan: Plan, doors: Doors) -> None:
        self._plan = plan
        self._doors = doors
        self._addresses = Addresses()
        self._dead_letters: DeadLetters = build_dead_letters(plan)
        self._deliveries: list[Delivery] = []
        self._stages: list[Stage] = []
        self._buffer: Buffer | None = None
        self._intake: Intake | None = None
        self._gateway: Gateway | None = None
        self._progress = Progress()
        self._stopped = False

    @property
    def addresses(self) -> Addresses:
        """Where the gateway is open, if it is."""
        return self._addresses

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the latest events that could not be delivered, oldest first."""
        return await self._dead_letters.stored()

    async def start(self) -> None:
        """Build from the back to the front, then open the door."""
        try:
            await self._assemble()
            registry = build_registry(self._plan, self._running(), self._assign)
            self._gateway = Gateway(self._running(), self.health, registry)
            self._addresses = await self._gateway.open(self._doors)
        except BaseException:
            await self._close()
            raise

    async def stop(self, timeout: float) -> StopReport:
        """Stop accepting, flush stages, empty outlets, close emitters: one deadline for all of it."""
        started = time.monotonic()
        complete = True
        try:
            await asyncio.wait_for(self._drain(), timeout)
        except TimeoutError:
            complete = False
        report = StopReport(self._outcome(), complete, time.monotonic() - started)
        await self._close()
        return report

    async def health(self) -> Health:
        """Return the state of every part."""
        return self.health_nowait()

    def health_nowait(self) -> Health:
        """Return the state of every part; from any thread, also while user code blocks the event loop."""
        intake, buffer = self._running(), self._buffer
        watch = Watch(self._progress)
        draining = "refuses new events: the pipeline is draining" if self._stopped else ""
        watch.add_ingest(intake.statistics(), draining)
        watch.add_ingestors(intake.statistics())
        for plan, stage in zip(self._plan.stages, self._stages, strict=True):
            watch.add_stage(plan.name, stage.statistics())
        if buffer is not None:
            watch.add_buffer(buffer.statistics())
        for delivery in self._deliveries:
            watch.add_delivery(delivery.name, delivery.statistics())
        return watch.health(intake.statistics().received)

    def door(self) -> Door:
        """The way in for senders of this process."""
        return InlineDoor(self._running())

    async def _assign(self, name: str, address: str | None) -> None:
        await next(delivery for delivery in self._deliveries if delivery.name == name).assign(address)

    async def _assemble(self) -> None:
        self._deliveries = [build_delivery(outlet) for outlet in self._plan.outlets]
        for delivery in self._deliveries:
            await delivery.start()
        links = {d.name: Link(f"{self._plan.name}/buffer/{d.name}", Local(d), window=_SINGLE) for d in self._deliveries}
        self._buffer = build_buffer(self._plan, links, self._dead_letters)
        await self._buffer.open()
        self._buffer.start()
        receiver: Receiver = self._buffer
        for plan in reversed(self._plan.stages):
            link = Link(f"{self._plan.name}/{plan.name}", Local(receiver), window=_SINGLE)
            stage = build_stage(self._plan, plan, link, self._dead_letters)
            await stage.start()
            self._stages.insert(0, stage)
            receiver = stage
        self._intake = build_intake(self._plan, Link(f"{self._plan.name}/ingest", Local(receiver), window=_JOINED))
        build_sources(self._plan, self._intake, self._dead_letters)
        await self._intake.start()
        replay_to_outlets(self._plan, self._dead_letters, self._buffer)
        replay_to_intake(self._plan, self._dead_letters, self._intake)

    async def _drain(self) -> None:
        self._stopped = True
        intake = self._running()
        intake.stop()
        if self._gateway is not None:
            await self._gateway.stop_serving()
        drain = asyncio.ensure_future(intake.drain())
        while not drain.done():
            # Inputs of a holder are only answered when it lets go, so stages are flushed while the intake drains.
            for stage in self._stages:
                await stage.flush()
            await asyncio.wait([drain], timeout=0.01)
        if self._buffer is not None:
            await self._buffer.drain()
        if self._gateway is not None:  # until here it told clients that the pipeline is draining
            await self._gateway.close(1.0)

    async def _close(self) -> None:
        self._stopped = True
        if self._gateway is not None:
            await self._gateway.close(0)
        if self._intake is not None:
            await self._intake.close()
        for stage in self._stages:
            await stage.close()
        if self._buffer is not None:
            await self._buffer.close()
        await self._dead_letters.close()
        for delivery in self._deliveries:
            await delivery.close()

    def _outcome(self) -> dict[str, EmitterReport]:
        if self._buffer is None:
            return {}
        return report_outcome(self._plan, self._buffer.statistics().outlets)

    def _running(self) -> Intake:
        if self._intake is None:
            raise NotRunningError("the pipeline has not started")
        return self._intake


class InlineDoor:
    """Reach the intake of this process from any of its threads and event loops."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def submit(self, message: bytes, timeout: float | None) -> bytes:
        """Block until the answer is there."""
        try:
            return loop_thread.submit(self._submit(message)).result(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"no answer within {timeout} s; the events may have been accepted") from None

    def submit_async(self, message: bytes) -> Awaitable[bytes]:
        """Return the awaitable of the answer."""
        return asyncio.wrap_future(loop_thread.submit(self._submit(message)))

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a sender of the inline runtime belongs to its process; use the ray runtime to send it on")

    async def _submit(self, message: bytes) -> bytes:
        return (await self._intake.batch(message)).SerializeToString()
