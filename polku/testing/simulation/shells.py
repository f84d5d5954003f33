"""What runs in each kind of part of a simulated cluster: the objects that the actor of its kind has."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt, Turn
from polku.buffer.buffer import Buffer
from polku.emit.delivery import Delivery
from polku.errors import UnavailableError
from polku.gateway.intake import Intake
from polku.link.link import Link, Outgoing, Peer, Push
from polku.link.receiver import LinkReceiver
from polku.plan import OutletPlan, Plan, StagePlan
from polku.runtime import lane as lanes
from polku.runtime.assembly import (
    build_buffer,
    build_dead_letters,
    build_delivery,
    build_intake,
    build_sources,
    build_stage,
    partition_plan,
    replay_to_intake,
    replay_to_outlets,
)
from polku.runtime.lane import Lane, single
from polku.stage.fork import Fork
from polku.stage.holding import is_holder
from polku.stage.key_space import KeySpace
from polku.stage.replicas import ReplyLink
from polku.stage.stage import Stage
from polku.testing.simulation.part import SimulatedPart, SimulatedPeer
from polku.testing.simulation.probes import ProbedStep
from polku.testing.simulation.ways import HandedOn, WayOut

if TYPE_CHECKING:
    from polku.testing.simulation.cluster import Cluster
    from polku.testing.simulation.inline import IntakeDoor
    from polku.testing.simulation.loop import Process


class Farewell:
    """What an ingest is told about its end, as by `polku.actors.ingest_base`: it outlives its process."""

    def __init__(self, door: IntakeDoor, told: set[str]) -> None:
        self._door = door
        self._told = told

    @property
    def drains(self) -> bool:
        """Whether it takes nothing at all any more."""
        return "drains" in self._told

    def begin(self, intake: Intake, process: Process) -> None:
        """Let in whom it may."""
        self._door.open(intake, process)
        self._door.is_leaving = "leaves" in self._told

    async def leave(self) -> None:
        """Have clients go elsewhere."""
        self._told.add("leaves")
        await self._door.leave()

    def drain(self) -> None:
        """Take nothing any more."""
        self._told.add("drains")

    def come_back(self) -> None:
        """Let clients in again."""
        self._told.clear()
        self._door.is_leaving = False


class SimulatedIngest:
    """As `polku.actors.ingest.IngestShell`."""

    def __init__(self, intake: Intake, farewell: Farewell, way: WayOut, letters: Any, handed: HandedOn) -> None:
        self.intake = intake
        self.farewell = farewell
        self._way = way
        self._over = 0  # the latest change that is
        self._handed = handed
        self._letters = letters

    @classmethod
    async def open(cls, cluster: Cluster, plan: Plan, lane: int, part: SimulatedPart) -> SimulatedIngest:
        """Build what runs in a part."""
        letters = build_dead_letters(plan)
        handed = HandedOn()
        connect = partial(cluster.connect, plan, lane, 0, letters, handed)
        peer, close = connect()
        window = replace(lanes.GATHERED, batches=plan.batches_under_way)
        link = Link(f"{plan.name}/ingest", peer, window=window, bury=partial(letters.bury, ""))
        intake = build_intake(plan, link, seals=True)
        build_sources(plan, intake, letters)
        farewell = Farewell(cluster.doors[lane], cluster.farewells.setdefault(part.name, set()))
        if farewell.drains:
            intake.stop()
        await intake.start()
        if lane == 1:
            replay_to_intake(plan, letters, intake)
        farewell.begin(intake, part.process)
        return cls(intake, farewell, WayOut(link, close, connect, cluster.resizing.version, window), letters, handed)

    async def resize(self, number: int, stage: str, names: Sequence[str]) -> int:
        """Give batches to these replicas from now on; return how many others still have."""
        return await self._handed.change(number, stage, names)

    async def rest(self, change: int) -> int:
        """Send nothing from now on; return how many batches that were sent have no final answer yet.

        Not where the change that it is for is over: Ray keeps the order of calls, this network does not.
        """
        if change > self._over:
            self._way.link.pause()
        return self._way.link.open

    async def resume(self, change: int) -> None:
        """Send again: a change is over."""
        self._over = max(self._over, change)
        self._way.link.resume()

    async def lead(self, version: int) -> bool:
        """Hand on to the parts that there are now; return False while this is not at rest."""
        return await self._way.lead(version)

    async def drain(self) -> None:
        """Return when everything that was taken has its answer."""
        self.intake.stop()
        self.farewell.drain()
        await self.intake.drain()

    async def close(self) -> None:
        """Close what was built."""
        await self.intake.close()
        await self._way.close()
        await self._letters.close()


class SimulatedLane:
    """As `polku.actors.lane.LaneShell`."""

    def __init__(self, lane: Lane, farewell: Farewell, handed: HandedOn) -> None:
        self.lane = lane
        self.farewell = farewell
        self._handed = handed

    @classmethod
    async def open(cls, cluster: Cluster, plan: Plan, number: int, part: SimulatedPart) -> SimulatedLane:
        """Build what runs in a part."""

        def elsewhere(stage: StagePlan) -> list[Peer]:
            if not stage.apart:
                return []
            place = "" if stage.shared else f"lane-{number}/"
            return [SimulatedPeer(cluster, place + name) for name in cluster.resizing.parts_of(stage)]

        letters, handed = build_dead_letters(plan), HandedOn()
        lane = Lane(plan, letters, elsewhere)
        farewell = Farewell(cluster.doors[number], cluster.farewells.setdefault(part.name, set()))
        await lane.open(replays=number == 1, patient=True, takes=not farewell.drains)
        for stage in plan.stages:
            if stage.name in lane.replicas:
                handed.note(stage.name, cluster.workers(plan, stage, number, lane.replicas[stage.name], letters))
        farewell.begin(lane.intake, part.process)
        return cls(lane, farewell, handed)

    async def resize(self, number: int, stage: str, names: Sequence[str]) -> int:
        """Give batches to these replicas from now on; return how many others still have."""
        return await self._handed.change(number, stage, names)

    @property
    def intake(self) -> Intake:
        """What takes messages in."""
        return self.lane.intake

    @property
    def buffer(self) -> Buffer:
        """The lane's buffer."""
        assert self.lane._buffer is not None
        return self.lane._buffer

    async def push(self, push: Push, batch: Batch, after: str) -> Answer | Turn:
        """Take a push of a link."""
        return await self.lane.push(push, batch, after)

    async def outcome(self, push: Push, after: str) -> Receipt:
        """Return the outcome of a push that was accepted."""
        return await self.lane.outcome(push, after)

    async def drain(self) -> None:
        """Return when everything that was taken has its answer."""
        self.farewell.drain()
        await self.lane.drain_intake()

    async def close(self) -> None:
        """Close what was built."""
        await self.lane.close()


class SimulatedStage:
    """As `polku.actors.stage.StageShell`."""

    def __init__(
        self, stage: Stage, component: Any, fork: Fork | None, letters: Any, ways: list[WayOut], handed: HandedOn
    ) -> None:
        self.stage = stage
        self._component = component
        self._ways = ways
        self._handed = handed
        self._receiver = LinkReceiver(stage, eager=True)
        self.fork = fork
        self._letters = letters

    @classmethod
    async def open(
        cls, cluster: Cluster, plan: Plan, stage_plan: StagePlan, name: str, lane: int, part: SimulatedPart
    ) -> SimulatedStage:
        """Build what runs in a part, which has this name in its lane."""
        letters = build_dead_letters(plan)
        ways: list[WayOut] = []
        part_name = name.partition("@")[0]
        handed = HandedOn()
        position = [stage.name for stage in plan.stages].index(stage_plan.name) + 1

        def link_of(number: int) -> Link:
            own = partition_plan(plan.lane(number) if stage_plan.shared else plan, stage_plan, part_name)
            connect = partial(cluster.connect, own, number, position, letters, handed)
            peer, close = connect()
            link = Link(f"{own.name}/{stage_plan.name}", peer, window=single(plan), bury=partial(letters.bury, ""))
            ways.append(WayOut(link, close, connect, cluster.resizing.version, single(plan)))
            return link

        out: Outgoing
        fork = None
        if stage_plan.replicas > 1:
            out = ReplyLink()
        elif stage_plan.shared:
            out = fork = Fork(f"{plan.name}/lane-", link_of, told=plan.per_node)
        else:
            out = link_of(lane)
        stage = build_stage(plan, stage_plan, out, letters)
        await stage.start()
        return cls(stage, stage_plan.middleware[0].component, fork, letters, ways, handed)

    async def resize(self, number: int, stage: str, names: Sequence[str]) -> int:
        """Give batches to these replicas of the next stage from now on; return how many others still have."""
        return await self._handed.change(number, stage, names)

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        """Take a push of a link."""
        if self.fork is not None and not await self.fork.hears(push.link):
            raise UnavailableError(f"{push} comes from a lane that is lost")
        return await self._receiver.push(push, batch)

    async def outcome(self, push: Push) -> Receipt:
        """Return the outcome of a push that was accepted."""
        return await self._receiver.outcome(push)

    async def lead(self, version: int) -> bool:
        """Hand on to the parts that there are now; return False while what was handed on has no final answer."""
        return all([await way.lead(version, pauses=True) for way in self._ways])

    async def shares(self, parts: int) -> list[bytes]:
        """Return the state of the middleware, divided by its keys for that many partitions."""
        step: Any = self.stage.middleware[0]
        state, passed = step.snapshot() if isinstance(step, ProbedStep) else (step.snapshot(), {})
        shares = self._component.split_state(state, parts, KeySpace(parts).partition_of)
        return [pickle.dumps((share, passed)) for share in shares]

    async def restore_shares(self, shares: Sequence[bytes]) -> None:
        """Take over the state of which each partition before had a share."""
        states = [pickle.loads(share) for share in shares]
        known: defaultdict[str, set[str]] = defaultdict(set)
        for _, passed in states:
            for key, tokens in passed.items():
                known[key] |= tokens
        step: Any = self.stage.middleware[0]
        state = self._component.merge_states([state for state, _ in states])
        flushes = step.restore((state, known) if isinstance(step, ProbedStep) else state)
        if is_holder(step) and flushes:
            await self.stage.release(step, flushes)

    async def flush(self, everything: bool) -> None:
        """Release what is held."""
        await self.stage.flush()

    async def close(self) -> None:
        """Close what was built."""
        await self.stage.close()
        for way in self._ways:
            await way.close()
        await self._letters.close()


class SimulatedBuffer:
    """As `polku.actors.buffer.BufferShell`."""

    def __init__(self, buffer: Buffer, letters: Any) -> None:
        self.buffer = buffer
        self._receiver = LinkReceiver(buffer, eager=True)
        self._letters = letters

    @classmethod
    async def open(cls, cluster: Cluster, plan: Plan, lane: int, part: SimulatedPart) -> SimulatedBuffer:
        """Build what runs in a part."""
        letters = build_dead_letters(plan)
        links: Mapping[str, Link] = {
            outlet.name: Link(
                f"{plan.name}/buffer/{outlet.name}", SimulatedPeer(cluster, f"lane-{lane}/emitter:{outlet.name}")
            )
            for outlet in plan.outlets
        }
        buffer = build_buffer(plan, links, letters)
        shell = cls(buffer, letters)
        await buffer.open()
        buffer.start()
        if lane == 1:
            replay_to_outlets(plan, letters, buffer)
        return shell

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        """Take a push of a link."""
        return await self._receiver.push(push, batch)

    async def outcome(self, push: Push) -> Receipt:
        """Return the outcome of a push that was accepted."""
        return await self._receiver.outcome(push)

    async def flush(self, everything: bool) -> None:
        """Release what is held."""
        await self.buffer.flush()

    async def close(self) -> None:
        """Close what was built."""
        await self.buffer.close()
        await self._letters.close()


class SimulatedEmitter:
    """As `polku.actors.emitter.EmitterShell`."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self._receiver = LinkReceiver(delivery)

    @classmethod
    async def open(cls, outlet: OutletPlan, part: SimulatedPart) -> SimulatedEmitter:
        """Build what runs in a part."""
        delivery = build_delivery(outlet)
        await delivery.start()
        return cls(delivery)

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        """Take a push of a link."""
        return await self._receiver.push(push, batch)

    async def outcome(self, push: Push) -> Receipt:
        """Return the outcome of a push that was accepted."""
        return await self._receiver.outcome(push)

    async def flush(self, everything: bool) -> None:
        """Release what is held."""
        await self.delivery.flush(everything)

    async def close(self) -> None:
        """Close what was built."""
        await self.delivery.close()


def workers(stage: StagePlan) -> Sequence[str]:
    """Return the names of the parts that share the work of a stage."""
    if stage.partitions > 1:
        return [f"{stage.name}/partition-{number}" for number in range(1, stage.partitions + 1)]
    if stage.replicas == 1:
        return [stage.name]
    return [f"{stage.name}/replica-{number}" for number in range(1, stage.replicas + 1)]
