"""Where a part's batches go next: to an actor, or to the replicas of a stage and then further on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import ray

from polku.actors.peer import RayPeer
from polku.assembly import build_replicas
from polku.dead_letters import DeadLetters
from polku.lane import single
from polku.link import Link, Local, Peer
from polku.plan import Plan, StagePlan

NAMESPACE = "polku"


class Target(NamedTuple):
    """Name what comes next.

    `actor` is a handle, or the name of a lane's actor, which takes batches `after` a stage that is elsewhere. With
    `workers`, replicas of `stage`, these come first and the sender itself keeps their order.
    """

    actor: Any = None
    after: str = ""
    stage: StagePlan | None = None
    workers: tuple[Any, ...] = ()
    then: Target | None = None


class Connection(NamedTuple):
    """A link's peer, and how to close what stands behind it in this process."""

    peer: Peer
    close: Callable[[], Awaitable[None]]


def connect(plan: Plan, target: Target, dead_letters: DeadLetters) -> Connection:
    """Make the peer that reaches a target."""
    if target.stage is None or target.then is None:
        return Connection(RayPeer(_find(target.actor), target.after or "next actor", target.after), _nothing)
    behind = connect(plan, target.then, dead_letters)
    peers = [RayPeer(handle, f"{target.stage.name}/replica-{n}") for n, handle in enumerate(target.workers, 1)]
    link = Link(f"{plan.name}/{target.stage.name}", behind.peer, window=single(plan))
    replicas = build_replicas(plan, target.stage, peers, link, dead_letters)

    async def close() -> None:
        await replicas.close()
        await behind.close()

    return Connection(Local(replicas), close)


def _find(actor: Any) -> Any:
    return ray.get_actor(actor, namespace=NAMESPACE) if isinstance(actor, str) else actor


async def _nothing() -> None:
    pass
