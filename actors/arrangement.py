"""Create the actors of a plan from the back to the front, each knowing where its batches go next.

All that needs nothing of its own stays on the node on which the pipeline is started: its address is where clients look
for the gateway, and its disk is where a journal is. Stages that need CPUs, GPUs or other resources go where these are.
"""

from __future__ import annotations

import uuid
from typing import Any

import ray

from polku.actors.buffer import BufferActor
from polku.actors.emitter import EmitterActor
from polku.actors.hub import Column, Parts
from polku.actors.ingest import IngestActor
from polku.actors.lane import LaneActor
from polku.actors.shell import pack
from polku.actors.stage import StageActor
from polku.actors.target import NAMESPACE, Target
from polku.plan import Plan, Resources, StagePlan

_SLIVER = 0.0001  # of a node: it has one, and this is the least that Ray counts


def this_node() -> dict[str, float]:
    """Return what only this node has: an actor that needs it is here, and comes back with the node if that is lost.

    Ray gives every node a resource that is called after its address; a node's id would change.
    """
    node = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    address = next(each["NodeManagerAddress"] for each in nodes if each["NodeID"] == node)
    return {f"node:{address}": _SLIVER}


def arrange(plan: Plan) -> Parts:
    """Create every actor of a pipeline; none of them has been started yet."""
    here = this_node()
    lanes = [_Lane(plan, number, here) for number in range(1, plan.lanes + 1)]
    shared: dict[str, Any] = {}
    for stage in reversed(plan.stages):
        if plan.chained and not stage.apart:
            for lane in lanes:
                lane.target = None
        elif stage.shared:
            targets = [lane.after(stage) for lane in lanes]
            shared[stage.name] = handle = _stage_actor(plan, stage, here, *targets)
            for lane in lanes:
                lane.add(stage, handle)
        else:
            for lane in lanes:
                lane.create(stage)
    return Parts(tuple(lane.column() for lane in lanes), shared)


class _Lane:
    """Collect the actors of one lane, from the back to the front."""

    def __init__(self, plan: Plan, number: int, here: dict[str, float]) -> None:
        self._plan = plan.lane(number)
        self._here = here
        self._name = f"lane-{number}/" if plan.lanes > 1 else ""
        self._replays = number == 1  # all lanes store dead letters in one file
        self._actor_name = f"polku-{plan.name}-{uuid.uuid4().hex}-lane-{number}"
        self._stages: dict[str, Any] = {}
        self._apart: dict[str, tuple[Any, ...]] = {}
        self._emitters: dict[str, Any] = {}
        self._buffer: Any = None
        self.target: Target | None = None  # what comes next; None: a part of the chained lane's own actor
        if not plan.chained:
            self._emitters = {outlet.name: self._actor(EmitterActor, outlet) for outlet in plan.outlets}
            self._buffer = self._actor(BufferActor, self._plan, self._emitters, self._replays)
            self.target = Target(self._buffer)

    def after(self, stage: StagePlan) -> Target:
        """Return where the batches of a stage with an actor of its own go."""
        return self.target or Target(self._actor_name, stage.name)

    def add(self, stage: StagePlan, handle: Any) -> None:
        """Let what comes before push to an actor that all lanes share."""
        self._apart[stage.name] = (handle,)
        self.target = Target(handle)

    def create(self, stage: StagePlan) -> None:
        """Create the actor of a stage, or those of its replicas."""
        then = self.after(stage)
        if stage.replicas == 1:
            handle = _stage_actor(self._plan, stage, self._here, then)
            self._stages[stage.name] = handle
            self.add(stage, handle)
            return
        workers = tuple(_stage_actor(self._plan, stage, self._here) for _ in range(stage.replicas))
        self._stages |= {f"{stage.name}/replica-{number}": worker for number, worker in enumerate(workers, 1)}
        self._apart[stage.name] = workers
        self.target = Target(stage=stage, workers=workers, then=then)

    def column(self) -> Column:
        """Create what clients talk to, and return the whole lane."""
        stages = dict(reversed(self._stages.items()))
        if self._plan.chained:
            named = {"name": self._actor_name, "namespace": NAMESPACE}
            actor = self._actor(LaneActor, self._plan, self._apart, self._replays, **named)
            return Column(self._name, actor, stages, actor, {outlet.name: actor for outlet in self._plan.outlets})
        ingest = self._actor(IngestActor, self._plan, self.target, self._replays)
        return Column(self._name, ingest, stages, self._buffer, self._emitters)

    def _actor(self, actor: Any, *arguments: object, **options: str) -> Any:
        return actor.options(resources=self._here, **options).remote(pack(*arguments))


def _stage_actor(plan: Plan, stage: StagePlan, here: dict[str, float], *targets: Target) -> Any:
    needs = stage.resources
    actor: Any = StageActor
    custom = dict(needs.custom) if needs != Resources() else here
    placed = actor.options(num_cpus=needs.num_cpus, num_gpus=needs.num_gpus, resources=custom)
    return placed.remote(pack(plan, stage, targets))
