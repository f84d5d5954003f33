"""The inline runtime in a simulated world: the very objects of `polku.runtime.inline`, and its doors without a wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from polku.aio.sequencer import Sequencer
from polku.errors import DrainingError, InputError, UnavailableError
from polku.gateway.addresses import Doors
from polku.gateway.intake import Intake
from polku.health import Health
from polku.plan import Plan
from polku.runtime.changing import Changed
from polku.runtime.inline import InlineRuntime
from polku.runtime.lane import LaneStatistics
from polku.runtime.report import StopReport
from polku.testing.simulation.loop import Process, first
from polku.v1.gateway_pb2 import Ack

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    from polku.gateway.admission import Admission
    from polku.testing.simulation.clients import SendChannel
    from polku.testing.simulation.world import World

    T = TypeVar("T")


class IntakeDoor:
    """Bring the messages of clients to an intake in its process; answers take a moment too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._intake: Intake | None = None
        self._process: Process | None = None
        self._turns: dict[str, Sequencer] = {}
        self._requests: list[tuple[bytes, asyncio.Future[Ack]]] = []
        self._lost: set[asyncio.Future[None]] = set()
        self.is_leaving = False

    def open(self, intake: Intake, process: Process) -> None:
        """Let calls in."""
        self._intake, self._process = intake, process
        self._turns.clear()
        self._requests.clear()
        process.on_death.append(self._lose)

    def _lose(self) -> None:
        self._intake = None
        for lost in self._lost:
            if not lost.done():
                lost.set_result(None)

    async def leave(self) -> None:
        """Return when clients have their answers; those of a port turn elsewhere by then."""
        self.is_leaving = True
        while self._lost:  # noqa: ASYNC110 - its clients are other processes
            await asyncio.sleep(0.01)

    async def submit(self, message: bytes) -> Ack:
        """Send an `IngestBatch` from inside the application, which may know a lane that has gone since."""

        async def take(intake: Intake) -> Ack:
            if self.is_leaving:
                raise UnavailableError("this lane is about to go")
            return await intake.batch(message)

        ack: Ack = await self._ask(take)
        return ack

    async def batch(self, message: bytes) -> Ack:
        """Send an `IngestBatch`."""
        ack: Ack = await self._ask(lambda intake: intake.batch(message))
        return ack

    async def event(self, message: bytes) -> Ack:
        """Send an `IngestEvent`."""
        ack: Ack = await self._ask(lambda intake: intake.event(message))
        return ack

    async def stream(self, client: str, message: bytes) -> Awaitable[Ack]:
        """Send an `IngestBatch` down a stream."""

        async def begin(intake: Intake) -> Awaitable[Ack]:
            turns = self._turns.setdefault(client, Sequencer())
            return asyncio.ensure_future(await intake.begin(message, turns))

        _, process = self._at()
        answer = await self._ask(begin)
        return self._ask(lambda intake: answer, process)

    async def together(self, message: bytes) -> Ack:
        """Send an `IngestEvent` with those that come in the same moment."""
        _, process = self._at()
        answer: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        self._requests.append((message, answer))
        if len(self._requests) == 1:
            self._world.loop.call_later(0.001, self._gather, context=process.context.copy())

        async def wait(intake: Intake) -> Ack:
            return await answer

        ack: Ack = await self._ask(wait)
        return ack

    def _gather(self) -> None:
        requests, self._requests = self._requests, []
        self._world.loop.create_task(self._answer(requests))

    async def _answer(self, requests: list[tuple[bytes, asyncio.Future[Ack]]]) -> None:
        intake, _ = self._at()
        ready: list[tuple[asyncio.Future[Ack], Admission]] = []
        size = 0
        for message, answer in requests:
            try:
                request = intake.parse(message)
                admission = intake.admit(request, len(message))
            except (InputError, DrainingError) as error:
                if not answer.done():
                    answer.set_exception(error)
                continue
            if admission is None:
                self._world.loop.create_task(_pass_on(intake.event(message), answer))
                continue
            ready.append((answer, admission))
            size += len(message)
        try:
            acks = await intake.together([admission for _, admission in ready], size)
        except Exception as error:
            for answer, _ in ready:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (answer, _), ack in zip(ready, acks, strict=True):
            if not answer.done():
                answer.set_result(ack)

    def _at(self) -> tuple[Intake, Process]:
        if self._intake is None or self._process is None:
            raise UnavailableError("connection refused")
        return self._intake, self._process

    async def _ask(self, call: Any, connected: Process | None = None) -> Any:
        """Run a call in the intake's process; that it dies, or the client leaves, ends it as gRPC does."""
        await asyncio.sleep(self._world.random.random() * 0.002)
        intake, process = self._at()
        if connected not in (None, process):
            raise UnavailableError("connection lost")
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost.add(lost)
        work = self._world.loop.spawn(process, _await(call, intake))
        try:
            await first(work, lost)
        except asyncio.CancelledError:
            if not work.done():  # to cancel what has failed would hide its error
                work.cancel()
            raise
        finally:
            self._lost.discard(lost)
        if not work.done():
            raise UnavailableError("connection lost")
        await asyncio.sleep(self._world.random.random() * 0.002)
        answer = work.result()
        if isinstance(answer, (InputError, DrainingError)):
            raise answer
        return answer


class _Runtime(InlineRuntime):
    def _begin_watch(self) -> None:
        """Leave out the thread that asks for the health: it would come in between at times that no seed decides."""


class InlineSystem:
    """A pipeline on the inline runtime, in one process."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self.plan = plan
        self.process = Process("polku")
        self.doors = {1: IntakeDoor(world)}
        self.runtime = _Runtime(plan, Doors(door=None))

    async def start(self) -> None:
        """Start it, and let clients in."""
        await self._in(self.runtime.start())
        self.doors[1].open(self.runtime._lane.intake, self.process)

    async def stop(self, timeout: float) -> StopReport:
        """Drain it."""
        return await self._in(self.runtime.stop(timeout))

    async def update(self, plan: Plan, seconds: float) -> Changed:
        """Run another plan from now on."""
        return await self._in(self.runtime.update(plan, seconds=seconds))

    def health(self) -> Health:
        """Return its health."""
        return self.runtime.health_nowait()

    def statistics(self) -> list[LaneStatistics]:
        """Return the counters of its lane."""
        return [self.runtime._lane.statistics()]

    def ways_in(self) -> list[SendChannel]:
        """Return the doors that clients choose among."""
        return list(self.doors.values())

    async def settled(self, limit: float) -> list[str]:
        """Return what does not come to its end by itself: nothing is to."""
        return []

    def lag(self) -> int:
        """Return how many events its buffer still holds for emitters."""
        outlets = self.runtime._lane.statistics().buffer.outlets
        return sum(outlet.lag for outlet in outlets.values())

    def intakes(self) -> list[Intake]:
        """Return its intake."""
        return [self.runtime._lane.intake]

    async def _in(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._world.loop.spawn(self.process, work)


async def _await(call: Any, intake: Intake) -> Any:
    """Return what the call does; a refusal too, which is an answer: whether the client is still there or not."""
    try:
        return await call(intake)
    except (InputError, DrainingError) as refusal:
        return refusal


async def _pass_on(call: Awaitable[Ack], answer: asyncio.Future[Ack]) -> None:
    try:
        ack = await call
    except Exception as error:
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(ack)
