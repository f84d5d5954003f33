"""Create the actors of a plan: lanes, each on its node, and the stages that all of them share.

Each actor knows by name where its batches go next. Stages that need CPUs, GPUs or other resources go where these are.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Mapping, Sequence
from itertools import count, cycle
from typing import Any, NamedTuple

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polku.actors.buffer import BufferActor, BufferArguments
from polku.actors.emitter import EmitterActor
from polku.actors.handles import ActorHandles, LaneHandles
from polku.actors.ingest import IngestActor
from polku.actors.lane import LaneActor
from polku.actors.names import NAMESPACE, Names
from polku.actors.nodes import LanePlace, Node
from polku.actors.shell import pack
from polku.actors.stage import StageActor
from polku.actors.surroundings import Surroundings, surroundings
from polku.actors.target import Route, Target, route, workers_of
from polku.plan import OutletPlan, Plan, Resources, StagePlan
from polku.runtime.assembly import tracing_of
from polku.runtime.report import EmitterReport, add_up


class Layout(NamedTuple):
    """A plan with the names of its actors, and the way of the batches through them."""

    plan: Plan
    names: Names
    route: Route

    def renewed(self, plan: Plan, parts: Collection[str], number: int) -> Layout:
        """Return what follows by a change of this number, which replaces the actors of some parts."""
        names = self.names.renewed(parts, number)
        return Layout(plan, names, route(plan, names))


class ActorFactory:
    """Create actors, none of which has been started yet."""

    def __init__(self, plan: Plan) -> None:
        names = Names(f"polku-{plan.name.replace('/', '-')}-{uuid.uuid4().hex}")
        self.layout = Layout(plan, names, route(plan, names))
        self.changing = asyncio.Lock()  # held by who adds a lane, or changes those that there are
        self._numbers = count(1)  # of lanes; none is given twice
        self._lanes: dict[int, tuple[LaneHandles, LanePlace]] = {}
        self._shared: dict[str, Any] = {}
        self.gone: dict[str, EmitterReport] = {}  # what lanes have done that are no parts any more, by emitter

    @property
    def lanes(self) -> tuple[tuple[LaneHandles, LanePlace], ...]:
        """The lanes, and where they are."""
        return tuple(self._lanes.values())

    @property
    def places(self) -> tuple[LanePlace, ...]:
        """Where the lanes are."""
        return tuple(place for _, place in self._lanes.values())

    def parts(self) -> ActorHandles:
        """Return the handles of all that was created."""
        return ActorHandles(tuple(lane for lane, _ in self._lanes.values()), self._shared)

    def create(self, where: Sequence[LanePlace]) -> ActorHandles:
        """Create a lane at each place, and what they share."""
        for place in where:
            self.add(self.create_lane(place), place)
        shared = [stage for stage in self.layout.plan.stages if stage.shared]
        for stage in reversed(shared):
            self._shared |= create_shared(self.layout, stage, [place.node for place in where])
        return self.parts()

    def create_lane(self, place: LanePlace, layout: Layout | None = None) -> LaneHandles:
        """Create the actors of one lane more, as the plan says, or another one that is to come."""
        return LaneFactory(layout or self.layout, next(self._numbers), place).create()

    def add(self, lane: LaneHandles, place: LanePlace) -> None:
        """Count a lane among the parts."""
        self._lanes[lane.number] = lane, place

    def exchange(self, lane: LaneHandles, place: LanePlace) -> None:
        """Count other actors as those of a lane, unless that was lost with its node."""
        if lane.number in self._lanes:
            self._lanes[lane.number] = lane, place

    def drop(self, lane: LaneHandles) -> None:
        """Count a lane among the parts no more."""
        self._lanes.pop(lane.number, None)

    def count_gone(self, reports: Mapping[str, EmitterReport]) -> None:
        """Count what a lane has done that is about to be dropped."""
        for name, report in reports.items():
            self.gone[name] = add_up([self.gone[name], report]) if name in self.gone else report

    def become(self, layout: Layout, shared: dict[str, Any]) -> None:
        """Use another plan, and its shared stages, for what is created from now on; name the lanes as it does."""
        self.layout, self._shared = layout, shared
        for number, (lane, place) in self._lanes.items():
            self._lanes[number] = lane._replace(name=name_of(layout.plan, number)), place


def name_of(plan: Plan, lane: int) -> str:
    """Return what the names of the parts of a lane begin with."""
    return f"lane-{lane}/" if plan.side_by_side else ""


class LaneFactory:
    """Create the actors of one lane."""

    def __init__(self, layout: Layout, number: int, place: LanePlace) -> None:
        self.plan = layout.plan.lane(number, place.number)
        self._number = number
        self._place = place
        self._names = layout.names
        self._way = layout.route

    def create(self) -> LaneHandles:
        """Create the parts from the back to the front."""
        plan, name = self.plan, name_of(self.plan, self._number)
        replays = self._place.is_first
        rest = (self._place.node.address, replays, name if plan.per_node else "")
        own = [stage for stage in plan.stages if not stage.shared and (stage.apart or not plan.chained)]
        if plan.chained:
            stages = self.create_stages(own)
            actor = self._actor(LaneActor, "lane", pack(*self.lane_arguments()))
            emitters = {outlet.name: actor for outlet in plan.outlets}
            return LaneHandles(name, self._number, actor, stages, actor, emitters, *rest)
        emitters = {outlet.name: self.create_emitter(outlet) for outlet in plan.outlets}
        buffer = self._actor(BufferActor, "buffer", pack(BufferArguments(plan, emitters, replays)))
        stages = self.create_stages(own)
        ingest = self._actor(IngestActor, "ingest", pack(*self.ingest_arguments()))
        return LaneHandles(name, self._number, ingest, stages, buffer, emitters, *rest)

    def name(self, part: str) -> str:
        """Return the name of the actor of a part of the lane."""
        return self._names.in_lane(self._number, part)

    def workers(self) -> dict[str, tuple[str, ...]]:
        """Return the names of actors of stages that have some of their own, in a chained lane."""
        apart = [stage for stage in self.plan.stages if stage.apart]
        return {
            stage.name: tuple(map(self._names.shared if stage.shared else self.name, workers_of(stage)))
            for stage in apart
        }

    def lane_arguments(self) -> tuple[Plan, dict[str, tuple[str, ...]], bool]:
        """Return what a chained lane is made of."""
        return self.plan, self.workers(), self._place.is_first

    def ingest_arguments(self) -> tuple[Plan, Target, bool]:
        """Return what the ingest is made of."""
        assert self._way.front is not None
        return self.plan, self._way.front.in_lane(self._number), self._place.is_first

    def stage_arguments(self, stage: StagePlan, part: str) -> tuple[Plan, StagePlan, Target | None, str]:
        """Return what a part of a stage is made of; replicas answer with what they made of a batch: nothing is behind.

        What hands on by itself is called as the `part`.
        """
        behind = self._way.behind[stage.name].in_lane(self._number) if not stage.replicated else None
        return self.plan, stage, behind, part

    def emitter_arguments(self, outlet: OutletPlan) -> tuple[object, ...]:
        """Return what an emitter is made of."""
        return outlet, tracing_of(self.plan)

    def create_stages(self, own: Sequence[StagePlan]) -> dict[str, Any]:
        """Return the handles by part, in the order of the stages."""
        handles: dict[str, Any] = {}
        for stage in own:
            for part in workers_of(stage):
                handles[part] = self.create_worker(stage, part)
        return handles

    def create_worker(self, stage: StagePlan, part: str) -> Any:
        """Return the handle of the actor of a stage, or of one of its replicas."""
        packed, around = pack(*self.stage_arguments(stage, part)), surroundings(self.plan, part, self._number)
        return _stage_actor(stage, self._place.node, self.name(part), packed, around)

    def create_emitter(self, outlet: OutletPlan) -> Any:
        """Return the handle of the actor of an emitter."""
        return self._actor(EmitterActor, f"emitter:{outlet.name}", pack(*self.emitter_arguments(outlet)))

    def _actor(self, actor: Any, part: str, packed: bytes) -> Any:
        placed = actor.options(resources=self._place.node.needs, name=self.name(part), namespace=NAMESPACE)
        return placed.remote(packed, surroundings(self.plan, part, self._number))


def create_shared(layout: Layout, stage: StagePlan, nodes: Sequence[Node]) -> dict[str, Any]:
    """Create the actors of a stage that the lanes share; its partitions are spread over the nodes of lanes."""
    handles: dict[str, Any] = {}
    for part, node in zip(workers_of(stage), cycle(nodes), strict=False):
        packed, around = pack(*shared_arguments(layout, stage, part)), surroundings(layout.plan, part)
        handles[part] = _stage_actor(stage, node, layout.names.shared(part), packed, around)
    return handles


def shared_arguments(layout: Layout, stage: StagePlan, part: str) -> tuple[Plan, StagePlan, Target, str]:
    """Return what a part of a stage that the lanes share is made of; the lane is left blank in what is behind it."""
    return layout.plan, stage, layout.route.behind[stage.name], part


def _stage_actor(stage: StagePlan, node: Node, name: str, packed: bytes, around: Surroundings) -> Any:
    needs = stage.resources
    options: dict[str, Any] = {"num_cpus": needs.num_cpus, "num_gpus": needs.num_gpus, "resources": dict(needs.custom)}
    if needs.labels:
        options["label_selector"] = dict(needs.labels)
    if needs == Resources() and stage.shared:  # elsewhere, where its node is lost: the lanes of other nodes need it
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node.identity, soft=True)
        options["memory"] = 1  # byte: Ray has what needs nothing on any node, whatever the strategy says
    elif needs == Resources():
        options["resources"] = node.needs
    actor: Any = StageActor
    return actor.options(name=name, namespace=NAMESPACE, **options).remote(packed, around)
