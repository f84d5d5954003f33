"""The parts of pipelines as processes that die one by one, connected by a network that loses, doubles and delays.

Each part has what the actor of its kind has (`polku.actors`): the same objects, built by the same functions. In place
of Ray stands a network: a call is a copy of its arguments, and ends as a call of an actor does: with an answer, with
the error of the part, or without a known outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from polku.errors import UnavailableError
from polku.gateway.intake import Intake
from polku.health import Health
from polku.link.link import Link, LocalPeer, Peer
from polku.plan import Plan, StagePlan
from polku.runtime.assembly import (
    build_partitions,
    build_replicas,
    replica_link,
)
from polku.runtime.lane import LaneStatistics, single
from polku.runtime.report import StopReport, add_up, report_outcome
from polku.runtime.watch import Progress, Watch
from polku.stage.replicas import Replicas
from polku.stage.workers import Workers
from polku.testing.simulation.inline import IntakeDoor
from polku.testing.simulation.loop import Process, first
from polku.testing.simulation.part import LateError, SimulatedPart, SimulatedPeer
from polku.testing.simulation.resizing import Resizing
from polku.testing.simulation.shells import (
    SimulatedBuffer,
    SimulatedEmitter,
    SimulatedIngest,
    SimulatedLane,
    SimulatedStage,
    workers,
)
from polku.testing.simulation.ways import HandedOn

if TYPE_CHECKING:
    from polku.testing.simulation.clients import SendChannel
    from polku.testing.simulation.world import World

T = TypeVar("T")

_LOOK_SECONDS = 1.0  # between two looks of the supervisor, which starts what was restarted
_FLUSH_SECONDS = 1.0
_LATE_SECONDS = 3.0  # until a call whose answer was lost counts as one (30 s in earnest)


@dataclass(slots=True)
class Network:
    """How calls between parts fare: chances of a loss and of a request that comes twice, seconds of delay."""

    lost: float = 0.0
    doubled: float = 0.0
    slow: float = 0.0


class Cluster:
    """All parts of a plan, the network between them, and who looks after them."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.network = Network()
        self.process = Process("supervisor")
        self.downtime: Callable[[], float] = lambda: 0.05 + world.random.random()
        self.deaths: list[Callable[[SimulatedPart], None]] = []
        self.parts: dict[str, SimulatedPart] = {}
        self.doors: dict[int, IntakeDoor] = {}
        self._progress = Progress()
        self._stopping = False
        self._looking: asyncio.Task[None] | None = None
        self.restarted = asyncio.Event()
        self.lanes = list(range(1, plan.lanes + 1))  # their numbers; others may come and go
        self.resizing = Resizing(self)
        self.farewells: dict[str, set[str]] = {}  # "leaves", "drains": what ingests were told, in each of their lives

    def on_death(self, part: SimulatedPart) -> None:
        """Tell those who want to know."""
        for call in self.deaths:
            call(part)

    def revive(self, part: SimulatedPart) -> None:
        """Have a part that died begin again, a moment later."""
        self.world.loop.call_later(self.downtime(), part.begin, context=self.process.context.copy())

    async def wait_back(self, part: SimulatedPart) -> None:
        """Return when a part that died lives again, or who calls it learns that it does not."""
        await part.wait_up()

    async def start(self) -> None:
        """Create every part, and start them from the back to the front."""
        for number in self.lanes:
            self.create_lane(number)
        for stage in self.plan.stages:
            for name in workers(stage) if stage.shared else ():
                self.add(name, partial(SimulatedStage.open, self, self.plan, stage, name, 0))
        for part in reversed(self.parts.values()):
            await self.world.loop.spawn(part.process, part.ensure_started())
        self._looking = self.world.loop.spawn(self.process, self._look_after())

    async def stop(self, timeout: float) -> StopReport:
        """Drain it, as the supervisor does, and close every part."""
        began = self.world.now
        complete = True
        try:
            async with asyncio.timeout(timeout):
                await self._drain()
        except TimeoutError:
            complete = False
        outcomes = [report_outcome(self.plan, lane.buffer.outlets) for lane in self.statistics()]
        self._stopping = True
        if self._looking is not None:
            self._looking.cancel()
        for part in list(self.parts.values()):
            if part.is_up:
                await self.world.loop.spawn(part.process, part.running.close())
        report = {name: add_up([o[name] for o in outcomes]) for name in outcomes[0]} if outcomes else {}
        return StopReport(report, complete, self.world.now - began)

    def kill(self, name: str) -> None:
        """End the process of a part: it is started again a moment later."""
        self.world.loop.kill(self.parts[name].process, by_chance=True)

    def health(self) -> Health:
        """Judge by what every part counts."""
        watch = Watch(self._progress)
        for number in self.lanes:
            watch.lane = f"lane-{number}/" if self.plan.side_by_side else ""
            for name, part in self.parts.items():
                if _lane_of(name) == number:
                    self._judge(watch, name.partition("/")[2], part)
        watch.lane = ""
        for name, part in self.parts.items():
            if _lane_of(name) == 0:
                self._judge(watch, name, part)
        return watch.health(0)

    def _judge(self, watch: Watch, name: str, part: SimulatedPart) -> None:
        if not part.is_up:
            watch.add(name, "does not answer")
            return
        match part.running:
            case SimulatedLane() as shell:
                watch.add_lane(shell.lane.statistics())
            case SimulatedIngest() as shell:
                watch.add_ingest(shell.intake.statistics())
            case SimulatedBuffer() as shell:
                watch.add_buffer(shell.buffer.statistics())
            case SimulatedEmitter() as shell:
                watch.add_delivery(name.partition(":")[2], shell.delivery.statistics())
            case shell:
                watch.add_stage(name, shell.stage.statistics())

    def statistics(self) -> list[LaneStatistics]:
        """Return the counters of the lanes whose parts are all up."""
        return [self._lane_statistics(number) for number in self.lanes if self._is_lane_up(number)]

    def ways_in(self) -> list[SendChannel]:
        """Return the doors that clients choose among."""
        return list(self.doors.values())

    async def settled(self, limit: float) -> list[str]:
        """Return what does not come to its end by itself: nothing is to."""
        return []

    async def scale(self, number: int) -> None:
        """Have this number of lanes: here they stay as they are."""

    async def change(self, fault: Mapping[str, Any]) -> None:
        """Have a node come or go: here there are none."""

    def lag(self) -> int:
        """Return how many events the buffers of these lanes still hold for emitters."""
        buffers = [self.buffer_part(number).running.buffer for number in self.lanes if self._is_lane_up(number)]
        return sum(outlet.lag for buffer in buffers for outlet in buffer.statistics().outlets.values())

    def _is_lane_up(self, number: int) -> bool:
        return all(part.is_up for name, part in self.parts.items() if _lane_of(name) in (0, number))

    def _lane_statistics(self, number: int) -> LaneStatistics:
        parts = {name.partition("/")[2]: p.running for name, p in self.parts.items() if _lane_of(name) == number}
        parts |= {name: p.running for name, p in self.parts.items() if _lane_of(name) == 0}
        if isinstance(lane := parts.get("lane"), SimulatedLane):
            own = lane.lane.statistics()
            apart = {name: s.stage.statistics() for name, s in parts.items() if isinstance(s, SimulatedStage)}
            return replace(own, stages={**own.stages, **apart})
        stages = {name: shell.stage.statistics() for name, shell in parts.items() if isinstance(shell, SimulatedStage)}
        emitters = {
            n.partition(":")[2]: s.delivery.statistics() for n, s in parts.items() if isinstance(s, SimulatedEmitter)
        }
        return LaneStatistics(
            parts["ingest"].intake.statistics(), stages, parts["buffer"].buffer.statistics(), emitters
        )

    def ingest_part(self, number: int) -> SimulatedPart:
        """Return the part that takes a lane's messages in."""
        return self.parts[f"lane-{number}/{'lane' if self.plan.chained else 'ingest'}"]

    def buffer_part(self, number: int) -> SimulatedPart:
        """Return the part that holds a lane's buffer."""
        return self.parts[f"lane-{number}/{'lane' if self.plan.chained else 'buffer'}"]

    def intakes(self) -> list[Intake]:
        """Return the intakes of the lanes."""
        parts = [self.ingest_part(number) for number in self.lanes]
        return [part.running.intake for part in parts if part.is_up]

    async def call(self, name: str, work: Callable[[Any], Awaitable[Any]], *, once: bool = False) -> Any:
        """Call a part over the network; raises `UnavailableError` where the outcome is unknown.

        What is to be done `once` does not come twice, as Ray's calls do not: its sender has no number on it.
        """
        if name not in self.parts:
            raise UnavailableError(f"{name} cannot be found")
        part, net, chance = self.parts[name], self.network, self.world.random.random
        known = part.life
        if delay := self._delay():
            await asyncio.sleep(delay)
        if chance() < net.lost:
            self.world.ledger.count("requests lost")
            await asyncio.sleep(_LATE_SECONDS)
            raise LateError(f"{name} has not answered")
        if part.process.dead:
            await self.wait_back(part)
            raise UnavailableError(f"{name} does not answer", died=part.life != known)
        death = part.death
        task = self.world.loop.spawn(part.process, part.serve(work))
        if not once and chance() < net.doubled:
            self.world.ledger.count("requests doubled")
            self._send_again(part, work)
        await first(task, death)
        if not task.done():
            await self.wait_back(part)
            raise UnavailableError(f"{name} died", died=True)
        if delay := self._delay():
            await asyncio.sleep(delay)
        if chance() < net.lost:
            self.world.ledger.count("answers lost")
            task.exception()
            await asyncio.sleep(_LATE_SECONDS)
            raise LateError(f"{name} has not answered")
        return task.result()

    def _send_again(self, part: SimulatedPart, work: Callable[[Any], Awaitable[Any]]) -> None:
        async def again() -> None:
            await asyncio.sleep(self._delay() * 10)
            with contextlib.suppress(Exception):
                await part.serve(work)

        self.world.loop.spawn(part.process, again())

    def _delay(self) -> float:
        random = self.world.random.random
        delay = max(0.0, random() - 0.5) * 0.004  # half of the calls come at once
        if self.network.slow and random() < 0.2:
            delay += random() * self.network.slow
        return delay

    async def _look_after(self) -> None:
        while not self._stopping:
            await self.restarted.wait()
            self.restarted.clear()
            await asyncio.sleep(_LOOK_SECONDS)
            for part in list(self.parts.values()):
                if not part.process.dead and part.running is None:
                    with contextlib.suppress(Exception):
                        await self._spawned(part, part.ensure_started())
                    if part.running is None:
                        self.restarted.set()

    async def _spawned(self, part: SimulatedPart, work: Coroutine[Any, Any, T]) -> T | None:
        task = self.world.loop.spawn(part.process, work)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await first(task, part.death)
        return task.result() if task.done() else None

    async def _drain(self) -> None:
        ingests = [self.ingest_part(number) for number in self.lanes]
        taking = [asyncio.ensure_future(self._until_done(part, lambda shell: shell.drain())) for part in ingests]
        pause = 0.05
        while not all(task.done() for task in taking):
            for part in list(self.parts.values()):
                if isinstance(part.running, (SimulatedStage, SimulatedBuffer)):
                    running = part.running
                    await self._spawned(part, running.flush(everything=True))
            await asyncio.wait(taking, timeout=pause)
            pause = min(2 * pause, 2.0)
        for number in self.lanes:
            await self._until_done(self.buffer_part(number), lambda shell: shell.buffer.drain())

    async def _until_done(self, part: SimulatedPart, work: Callable[[Any], Awaitable[Any]]) -> None:
        while True:
            task = self.world.loop.spawn(part.process, part.serve(work))
            await first(task, part.death)
            if task.done() and not isinstance(task.exception(), UnavailableError):
                task.result()
                return
            await part.wait_up()

    def create_lane(self, number: int, place: int | None = None) -> None:
        """Create the parts of a lane, which has the journal of this place among those of the disk."""
        plan = self.plan.lane(number, place)
        lane = f"lane-{number}/"
        self.doors[number] = IntakeDoor(self.world)
        if plan.chained:
            self.add(f"{lane}lane", partial(SimulatedLane.open, self, plan, number))
        else:
            self.add(f"{lane}ingest", partial(SimulatedIngest.open, self, plan, number))
        for stage in plan.stages:
            if not stage.shared and (stage.apart or not plan.chained):
                for name in self.resizing.parts_of(stage):
                    self.add(lane + name, partial(SimulatedStage.open, self, plan, stage, name, number))
        if plan.chained:
            return
        self.add(f"{lane}buffer", partial(SimulatedBuffer.open, self, plan, number))
        for outlet in plan.outlets:
            self.add(f"{lane}emitter:{outlet.name}", partial(SimulatedEmitter.open, outlet))

    def workers(self, plan: Plan, stage: StagePlan, lane: int, replicas: Replicas, letters: Any) -> Workers:
        """Return the replicas of a stage as the part knows them that hands batches to them."""

        def link_to(name: str, number: int) -> Link:
            return replica_link(plan, stage, number, SimulatedPeer(self, f"lane-{lane}/{name}"), letters)

        return Workers(replicas, self.resizing.parts_of(stage), link_to)

    def add(self, name: str, open_: Callable[[SimulatedPart], Coroutine[Any, Any, Any]]) -> None:
        """Create a part, which starts when it is asked for something."""
        self.parts[name] = SimulatedPart(self, name, open_)

    def remove(self, names: Iterable[str]) -> None:
        """End parts that nobody has anything for any more."""
        for name in names:
            if part := self.parts.pop(name, None):
                part.retire()

    def connect(
        self, plan: Plan, lane: int, position: int, letters: Any, handed: HandedOn
    ) -> tuple[Peer, Callable[[], Awaitable[None]]]:
        """Make the peer for the part at a position of the plan's stages, or the buffer behind the last one.

        Replicas that the peer hands batches to are noted by their stage.
        """
        if plan.chained and (position == len(plan.stages) or not plan.stages[position].apart):
            return SimulatedPeer(self, f"lane-{lane}/lane", plan.stages[position - 1].name), _nothing
        if position == len(plan.stages):
            return SimulatedPeer(self, f"lane-{lane}/buffer"), _nothing
        stage = plan.stages[position]
        if stage.partitions > 1:
            place = "" if stage.shared else f"lane-{lane}/"
            peers = [SimulatedPeer(self, place + name) for name in self.resizing.parts_of(stage)]
            partitions = build_partitions(plan, stage, peers, letters, single(plan))
            return LocalPeer(partitions), partitions.close
        if stage.shared:
            return SimulatedPeer(self, stage.name), _nothing
        names = self.resizing.parts_of(stage)
        if not stage.replicated:
            return SimulatedPeer(self, f"lane-{lane}/{stage.name}"), _nothing
        peer, close_behind = self.connect(plan, lane, position + 1, letters, handed)
        peers = [SimulatedPeer(self, f"lane-{lane}/{name}") for name in names]
        link = Link(f"{plan.name}/{stage.name}", peer, window=single(plan))
        replicas = build_replicas(plan, stage, peers, link, letters)
        handed.note(stage.name, self.workers(plan, stage, lane, replicas, letters))

        async def close() -> None:
            await replicas.close()
            await close_behind()

        return LocalPeer(replicas), close


def _lane_of(name: str) -> int:
    """Return the number of the lane that a part belongs to; 0: all lanes share it."""
    lane = name.partition("/")[0]
    return int(lane.removeprefix("lane-")) if lane.startswith("lane-") else 0


async def _nothing() -> None:
    """Close nothing."""
