"""Where a part's batches go next: to an actor, to the partitions of a stage, or to its replicas and then further on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from polku.actors.names import Names, fill
from polku.actors.object_ref_queue import ObjectRefQueue
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer, Peer
from polku.plan import Plan, StagePlan
from polku.runtime.assembly import build_partitions, build_replicas, replica_link
from polku.runtime.lane import single
from polku.stage.workers import Workers


class Target(NamedTuple):
    """Name what comes next.

    `actor` takes batches, a lane's actor `after` a stage that is elsewhere. With `workers`, replicas of `stage`, these
    come first, `then` what is next; the sender itself keeps their order. Partitions of `stage` hand on by themselves.
    """

    actor: str = ""
    after: str = ""
    stage: StagePlan | None = None
    workers: tuple[str, ...] = ()
    then: Target | None = None

    def in_lane(self, number: int) -> Target:
        """Return the same with the names of one lane's actors."""
        return self._replace(
            actor=fill(self.actor, number),
            workers=tuple(fill(worker, number) for worker in self.workers),
            then=self.then.in_lane(number) if self.then else None,
        )


class Route(NamedTuple):
    """The way of the batches: where those of the ingest go, and those of each stage with an actor, by its name.

    In a chained lane a `front` of None is the first part of the lane's own actor.
    """

    front: Target | None
    behind: dict[str, Target]


def route(plan: Plan, names: Names) -> Route:
    """Return the way through a plan; the lane is left blank."""
    target = None if plan.chained else Target(names.in_any_lane("buffer"))
    behind: dict[str, Target] = {}
    for stage in reversed(plan.stages):
        if plan.chained and not stage.apart:
            target = None
            continue
        behind[stage.name] = target or Target(names.in_any_lane("lane"), stage.name)
        if stage.partitions > 1:
            name = names.shared if stage.shared else names.in_any_lane
            target = Target(stage=stage, workers=tuple(map(name, workers_of(stage))))
        elif stage.shared:
            target = Target(names.shared(stage.name))
        elif not stage.replicated:
            target = Target(names.in_any_lane(stage.name))
        else:
            workers = tuple(names.in_any_lane(part) for part in workers_of(stage))
            target = Target(stage=stage, workers=workers, then=behind[stage.name])
    return Route(target, behind)


def workers_of(stage: StagePlan) -> list[str]:
    """Return the names of the actors of a stage: its own, or those of its partitions or replicas."""
    if stage.partitions > 1:
        return [f"{stage.name}/partition-{number}" for number in range(1, stage.partitions + 1)]
    if not stage.replicated:
        return [stage.name]
    return [f"{stage.name}/replica-{number}" for number in range(1, stage.replicas + 1)]


class PeerConnection(NamedTuple):
    """A link's peer, how to close what stands behind it in this process, and the replicas that are there, by stage."""

    peer: Peer
    close: Callable[[], Awaitable[None]]
    workers: Mapping[str, Workers] = {}

    async def resize(self, target: Target | None) -> int:
        """Give batches to the replicas that a target has now; return how many those that go still have."""
        left = 0
        while target is not None and target.stage is not None and target.then is not None:
            left += await self.workers[target.stage.name].change(target.workers)
            target = target.then
        return left


def connect(plan: Plan, target: Target, dead_letters: DeadLetters) -> PeerConnection:
    """Make the peer that reaches a target."""
    if target.stage is None:
        return PeerConnection(ObjectRefQueue(target.actor, target.after or "next actor", target.after), _nothing)
    parts = zip(workers_of(target.stage), target.workers, strict=True)
    peers = [ObjectRefQueue(worker, part) for part, worker in parts]
    if target.then is None:
        partitions = build_partitions(plan, target.stage, peers, dead_letters, single(plan))
        return PeerConnection(LocalPeer(partitions), partitions.close)
    behind = connect(plan, target.then, dead_letters)
    link = Link(f"{plan.name}/{target.stage.name}", behind.peer, window=single(plan))
    stage = target.stage
    replicas = build_replicas(plan, stage, peers, link, dead_letters)

    def link_to(worker: str, number: int) -> Link:
        queue = ObjectRefQueue(worker, f"{stage.name}/replica-{number}")
        return replica_link(plan, stage, number, queue, dead_letters)

    async def close() -> None:
        await replicas.close()
        await behind.close()

    workers = Workers(replicas, target.workers, link_to)
    return PeerConnection(LocalPeer(replicas), close, {**behind.workers, stage.name: workers})


async def _nothing() -> None:
    pass
