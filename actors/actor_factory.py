"""Create the actors of a plan: lanes, each on its node, and the stages that all of them share.

Each actor knows by name where its batches go next. Stages that need CPUs, GPUs or other resources go where these are.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import count
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polku.actors.buffer import BufferActor
from polku.actors.emitter import EmitterActor
from polku.actors.ingest import IngestActor
from polku.actors.lane import LaneActor
from polku.actors.names import NAMESPACE, Names
from polku.actors.nodes import Node, Place
from polku.actors.shell import pack
from polku.actors.stage import StageActor
from polku.actors.supervisor import ActorHandles, LaneHandles
from polku.actors.surroundings import Surroundings, surroundings
from polku.actors.target import Route, Target, route, workers_of
from polku.plan import Plan, Resources, StagePlan
from polku.runtime.assembly import tracing_of


class ActorFactory:
    """Create actors, none of which has been started yet."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._names = Names(f"polku-{plan.name.replace('/', '-')}-{uuid.uuid4().hex}")
        self._route = route(plan, self._names)
        self._numbers = count(1)  # of lanes; none is given twice
        self._lanes: dict[int, tuple[LaneHandles, Place]] = {}
        self._shared: dict[str, Any] = {}

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the lanes are."""
        return tuple(place for _, place in self._lanes.values())

    def parts(self) -> ActorHandles:
        """Return the handles of all that was created."""
        return ActorHandles(tuple(lane for lane, _ in self._lanes.values()), self._shared)

    def create(self, where: Sequence[Place]) -> ActorHandles:
        """Create a lane at each place, and what they share."""
        for place in where:
            self.add(self.create_lane(place), place)
        for stage in reversed(self._plan.stages):
            if stage.shared:
                name, behind = self._names.shared(stage.name), self._route.behind[stage.name]
                self._shared[stage.name] = _stage_actor(
                    self._plan, stage, where[0].node, name, behind, surroundings(self._plan, stage.name)
                )
        return self.parts()

    def create_lane(self, place: Place) -> LaneHandles:
        """Create the actors of one lane more."""
        return _Lane(self._plan, next(self._numbers), place, self._names, self._route).create()

    def add(self, lane: LaneHandles, place: Place) -> None:
        """Count a lane among the parts."""
        self._lanes[lane.number] = lane, place

    def drop(self, lane: LaneHandles) -> None:
        """Count a lane among the parts no more."""
        self._lanes.pop(lane.number, None)


class _Lane:
    """Create the actors of one lane."""

    def __init__(self, plan: Plan, number: int, place: Place, names: Names, way: Route) -> None:
        self._plan = plan.lane(number, place.number)
        self._number = number
        self._place = place
        self._names = names
        self._way = way

    def create(self) -> LaneHandles:
        """Create the parts from the back to the front."""
        name = f"lane-{self._number}/" if self._plan.side_by_side else ""
        replays = self._place.is_first
        rest = (self._place.node.address, replays, name if self._plan.per_node else "")
        own = [stage for stage in self._plan.stages if not stage.shared and (stage.apart or not self._plan.chained)]
        if self._plan.chained:
            stages, workers = self._create_stages(own)
            workers |= {stage.name: (self._names.shared(stage.name),) for stage in self._plan.stages if stage.shared}
            actor = self._actor(LaneActor, "lane", self._plan, workers, replays)
            emitters = {outlet.name: actor for outlet in self._plan.outlets}
            return LaneHandles(name, self._number, actor, stages, actor, emitters, *rest)
        tracing = tracing_of(self._plan)
        emitters = {o.name: self._actor(EmitterActor, f"emitter:{o.name}", o, tracing) for o in self._plan.outlets}
        buffer = self._actor(BufferActor, "buffer", self._plan, emitters, replays)
        stages, _ = self._create_stages(own)
        assert self._way.front is not None
        ingest = self._actor(IngestActor, "ingest", self._plan, self._way.front.in_lane(self._number), replays)
        return LaneHandles(name, self._number, ingest, stages, buffer, emitters, *rest)

    def _create_stages(self, own: list[StagePlan]) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
        """Return the handles by part, in the order of the stages, and the actors' names by stage."""
        handles: dict[str, Any] = {}
        workers: dict[str, tuple[str, ...]] = {}
        for stage in own:
            # Replicas answer with what they made of a batch: nothing is behind them.
            behind = self._way.behind[stage.name].in_lane(self._number) if stage.replicas == 1 else None
            for part in workers_of(stage):
                name = self._names.in_lane(self._number, part)
                around = surroundings(self._plan, part, self._number)
                handles[part] = _stage_actor(self._plan, stage, self._place.node, name, behind, around)
                workers[stage.name] = (*workers.get(stage.name, ()), name)
        return handles, workers

    def _actor(self, actor: Any, part: str, *arguments: object) -> Any:
        name = self._names.in_lane(self._number, part)
        placed = actor.options(resources=self._place.node.needs, name=name, namespace=NAMESPACE)
        return placed.remote(pack(*arguments), surroundings(self._plan, part, self._number))


def _stage_actor(
    plan: Plan, stage: StagePlan, node: Node, name: str, behind: Target | None, around: Surroundings
) -> Any:
    needs = stage.resources
    options: dict[str, Any] = {"num_cpus": needs.num_cpus, "num_gpus": needs.num_gpus, "resources": dict(needs.custom)}
    if needs == Resources() and stage.shared:  # elsewhere, where its node is lost: the lanes of other nodes need it
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node.identity, soft=True)
    elif needs == Resources():
        options["resources"] = node.needs
    actor: Any = StageActor
    return actor.options(name=name, namespace=NAMESPACE, **options).remote(pack(plan, stage, behind), around)
