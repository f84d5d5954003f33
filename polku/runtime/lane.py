"""One lane in one event loop: intake, stages, buffer and deliveries, connected by plain awaits.

The inline runtime is such a lane with a door; a chained lane on Ray is one inside an actor. There, stages that need an
actor of their own are elsewhere: what they hand back comes in again through `push`.

Where the time of an event goes, in nanoseconds: messages of 1,000 events of 130 bytes through Filter and Transform,
each step by itself on one core (AMD EPYC, protobuf 7):

    parse 80 · an object for each event 45 · its id, time and source 124 · its size, for limits 42 · ids unique 8
    filter 99 · transform 130
    any route? 2 to 38 · encode 73 · release it 20 · its id in the Ack 18

That is 640 of the 1,250 that the whole pipeline takes under load; the rest is gRPC in and out, most of it in the
kernel, and the event loop, about 0.3 ms a batch whatever is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt, Turn
from polku.buffer.buffer import Buffer
from polku.buffer.copies import Found
from polku.buffer.statistics import BufferStatistics
from polku.clock import Clock, SystemClock
from polku.dead_letters import DeadLetters
from polku.emit.delivery import Delivery, DeliveryStatistics
from polku.errors import NotRunningError, UnavailableError
from polku.gateway.intake import Intake
from polku.gateway.intake_statistics import IntakeStatistics
from polku.hooks import close_each
from polku.link.link import Link, LocalPeer, Outgoing, Peer, Push, Receiver, Window
from polku.link.local import LocalLink
from polku.link.receiver import LinkReceiver
from polku.plan import Plan, StagePlan
from polku.runtime.assembly import (
    accepts_first,
    build_buffer,
    build_delivery,
    build_intake,
    build_partitions,
    build_replicas,
    build_sources,
    build_stage,
    replay_to_intake,
    replay_to_outlets,
    tracing_of,
)
from polku.stage.partitions import Partitions
from polku.stage.replicas import Replicas
from polku.stage.stage import Stage
from polku.stage.statistics import StageStatistics
from polku.tap.point import Tapped

if TYPE_CHECKING:
    from polku.external.callback import Callback


def tapped_of(buffer: Buffer) -> dict[str, Tapped]:
    """Return a buffer, and its outlets under the names of their emitters: these show what emitters do."""
    return {"buffer": buffer, **{f"emitter:{name}": outlet for name, outlet in buffer.outlets.items()}}


Elsewhere = Callable[[StagePlan], Sequence[Peer]]

# Without a hop to pay for, joins only have to spare small messages the work of each; 4,096 decoded events would no
# longer fit into a core's cache between one step and the next. Of messages of ten events, 32 in flight, gathering up to
# 512 events gave 39,600 events a second, 256 36,800, 128 30,400.
_JOINED = Window(join_events=1024, join_bytes=256 * 1024, gather_events=512, gather_turns=32)

# Of so many links in a row one begins in a task: what is begun at once lies on the stack of who pushes.
_AT_ONCE = 8

RELEASE_SECONDS = 1.0
"""How long emitters may take to say what is confirmed of what is in flight, when a drain's time is up."""

GATHERED = Window(gather_events=768, gather_turns=40)
"""The window of the first link where a hop comes next, which costs as much as the work on some hundred events."""


def single(plan: Plan) -> Window:
    """Return the window of links that do not join, so that each batch keeps its identity: all but the first."""
    return Window(_under_way(plan), join_events=0)


def _under_way(plan: Plan) -> int:
    """Return a link's window; with a journal some batches wait for the disk while others are worked on.

    Twice as many in flight gave 0.74 of the rate of a pipeline in memory instead of 0.69, three times as many no more.
    """
    return plan.batches_under_way * (2 if plan.buffer.path else 1)


class LaneStatistics(Struct, frozen=True):
    """What every part of a lane has counted, stages and emitters by name."""

    intake: IntakeStatistics
    stages: Mapping[str, StageStatistics]
    buffer: BufferStatistics
    emitters: Mapping[str, DeliveryStatistics]


class Lane:
    """Build the parts of a lane from the back to the front, and empty them from the front to the back.

    `elsewhere` returns the peers that run a stage in actors of their own: none (it runs here), one, which pushes what
    goes on back to this lane, or several: partitions, which do the same, or replicas, which answer with their work.
    """

    def __init__(
        self,
        plan: Plan,
        dead_letters: DeadLetters,
        elsewhere: Elsewhere = lambda stage: (),
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._plan = plan
        self._dead_letters = dead_letters
        self._elsewhere = elsewhere
        self._deliveries: dict[str, Delivery] = {}
        self._stages: dict[str, Stage] = {}
        self._dividers: list[Replicas | Partitions] = []
        self.replicas: dict[str, Replicas] = {}  # by stage
        self._receivers: dict[str, LinkReceiver] = {}
        self._buffer: Buffer | None = None
        self._intake: Intake | None = None

    @property
    def intake(self) -> Intake:
        """What takes messages in; raises `NotRunningError` before `open`."""
        if self._intake is None:
            raise NotRunningError("the pipeline has not started")
        return self._intake

    async def open(self, *, replays: bool = True, patient: bool = False, takes: bool = True) -> None:
        """Start every part; where several lanes store dead letters in one file, one of them does the replays.

        Raises what a part raises. With `patient`, in an actor that may have been restarted, an emitter's `start` is
        called again until it works instead, and only its own events wait. A lane that `takes`
        nothing is there to be emptied.
        """
        for outlet in self._plan.outlets:
            tracing = tracing_of(self._plan)
            self._deliveries[outlet.name] = delivery = build_delivery(outlet, self._clock, tracing=tracing)
            await (delivery.start_again() if patient else delivery.start())
        links = {name: self._link(f"buffer/{name}", LocalPeer(d)) for name, d in self._deliveries.items()}
        self._buffer = build_buffer(self._plan, links, self._dead_letters)
        await self._buffer.open()
        self._buffer.start()
        peer = await self._connect(self._buffer)
        link = Link(f"{self._plan.name}/ingest", peer, window=self._first_window(), eager=isinstance(peer, LocalPeer))
        self._intake = build_intake(self._plan, link, self._clock, seals=not self._first_stage_is_here)
        build_sources(self._plan, self._intake, self._dead_letters, self._clock)
        if not takes:
            self._intake.stop()
        await self._intake.start()
        if replays:
            replay_to_outlets(self._plan, self._dead_letters, self._buffer)
            replay_to_intake(self._plan, self._dead_letters, self._intake)

    def check(self) -> None:
        """Raise what the `start` of an emitter raised that is still being started again."""
        for delivery in self._deliveries.values():
            if delivery.start_error is not None:
                raise delivery.start_error

    async def _connect(self, receiver: Receiver) -> Peer:
        """Build the stages that run here in front of the buffer, backwards; return what comes after the intake."""
        peer: Peer = LocalPeer(receiver)
        here = True  # whether what comes next runs here
        for position, stage in reversed(list(enumerate(self._plan.stages))):
            others = self._elsewhere(stage)
            if others and not (stage.replicated and self._begins_here(position)):
                if here:
                    self._receivers[stage.name] = LinkReceiver(receiver, eager=True)
                here, peer = False, others[0]
                if stage.partitions > 1 and self._begins_here(position):
                    partitions = build_partitions(self._plan, stage, others, self._dead_letters, single(self._plan))
                    self._dividers.insert(0, partitions)
                    peer = LocalPeer(partitions)
                continue
            near = here and (position + 1) % _AT_ONCE > 0
            if others:
                link = self._link(stage.name, peer, eager=near)
                receiver = replicas = build_replicas(self._plan, stage, others, link, self._dead_letters)
                self._dividers.insert(0, replicas)
                self.replicas[stage.name] = replicas
            else:
                outgoing: Outgoing = self._link(stage.name, peer, eager=near)
                if near and not accepts_first(self._plan, stage):
                    outgoing = LocalLink(f"{self._plan.name}/{stage.name}", receiver)
                receiver = await self._start_stage(stage, outgoing)
            here, peer = True, LocalPeer(receiver)
        return peer

    async def _start_stage(self, stage: StagePlan, outgoing: Outgoing) -> Stage:
        started = build_stage(self._plan, stage, outgoing, self._dead_letters, self._clock)
        self._stages[stage.name] = started
        await started.start()
        return started

    async def push(self, push: Push, batch: Batch, after: str) -> Answer | Turn:
        """Take what a stage that runs elsewhere hands on."""
        return await self._receiver(after).push(push, batch)

    async def outcome(self, push: Push, after: str) -> Receipt:
        """Return the outcome of a batch of such a stage that was taken."""
        return await self._receiver(after).outcome(push)

    async def assign(self, emitter: str, where: Callback | None) -> None:
        """Tell an emitter that is a place for a plugin where its plugin is."""
        await self._deliveries[emitter].assign(where)

    def statistics(self) -> LaneStatistics:
        """Return a snapshot of the counters of every part; from any thread."""
        if self._buffer is None:
            raise NotRunningError("the pipeline has not started")
        stages = self._stages
        return LaneStatistics(
            self.intake.statistics(),
            {stage.name: stages[stage.name].statistics() for stage in self._plan.stages if stage.name in stages},
            self._buffer.statistics(),
            {name: delivery.statistics() for name, delivery in self._deliveries.items()},
        )

    async def find(self, event_id: str) -> Found:
        """Return where the copies of an event are."""
        if self._buffer is None:
            raise NotRunningError("the pipeline has not started")
        return await self._buffer.find(event_id)

    def tapped(self) -> dict[str, Tapped]:
        """Return the parts that show their events, by name, from front to back."""
        if self._buffer is None:
            raise NotRunningError("the pipeline has not started")
        stages = {stage.name: self._stages[stage.name] for stage in self._here()}
        return {"ingest": self.intake, **stages, **tapped_of(self._buffer)}

    async def flush(self) -> None:
        """Release everything that the stages hold, and what is collected for emitters."""
        for stage in self._here():
            await self._stages[stage.name].flush()
        if self._buffer is not None:
            await self._buffer.flush()

    async def drain_intake(self) -> None:
        """Refuse what is new; return when everything taken in has its answer."""
        self.intake.stop()
        drain = asyncio.ensure_future(self.intake.drain())
        try:
            while not drain.done():
                # Inputs of a holder are only answered when it lets go, so stages are flushed while the intake drains.
                await self.flush()
                await asyncio.wait([drain], timeout=0.01)
            await drain
        finally:
            drain.cancel()

    async def drain_buffer(self) -> None:
        """Return when every outlet has delivered what it holds."""
        if self._buffer is not None:
            await self._buffer.drain()

    async def release(self) -> None:
        """Take note of what is confirmed of what is in flight, at a drain whose time is up."""
        if self._buffer is None:
            return
        self._buffer.halt()
        for delivery in self._deliveries.values():
            delivery.release()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._buffer.settled()

    async def close(self) -> None:
        """Close every part, from the front to the back."""
        closing: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        if self._intake is not None:
            closing.append(("the ingest", self._intake.close))
        closing += [(name, stage.close) for name, stage in self._stages.items()]
        closing += [("the links to parts of a stage", divider.close) for divider in self._dividers]
        if self._buffer is not None:
            closing.append(("the buffer", self._buffer.close))
        closing.append(("the dead letters", self._dead_letters.close))
        closing += [(f"emitter {name!r}", delivery.close) for name, delivery in self._deliveries.items()]
        await close_each(closing)

    def _begins_here(self, position: int) -> bool:
        """Return whether the part that hands its batches to replicas, or partitions, of a stage runs here."""
        before = [stage for stage in self._plan.stages[:position] if not stage.replicated]
        return not before or not self._elsewhere(before[-1])

    def _here(self) -> list[StagePlan]:
        return [stage for stage in self._plan.stages if stage.name in self._stages]

    def _link(self, name: str, peer: Peer, *, eager: bool = False) -> Link:
        return Link(f"{self._plan.name}/{name}", peer, window=single(self._plan), eager=eager)

    @property
    def _first_stage_is_here(self) -> bool:
        return bool(self._plan.stages) and self._plan.stages[0].name in self._stages

    def _first_window(self) -> Window:
        here = not self._plan.stages or self._first_stage_is_here
        return replace(_JOINED if here else GATHERED, batches=_under_way(self._plan))

    def _receiver(self, after: str) -> LinkReceiver:
        if after not in self._receivers:
            raise UnavailableError(f"nothing here comes after {after}: the lane is starting")
        return self._receivers[after]
