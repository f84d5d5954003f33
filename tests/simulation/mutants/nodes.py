"""Faults of lanes on nodes that come, are drained and are lost: found in cases that have such."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.simulation.mutants.faults import mutant, replaced


@mutant("n1", "the lane of a node that is drained is ended before it is empty")
def ended_early() -> Iterator[None]:
    from polku.actors import node_drain

    async def at_once(timeout: float, work: Any, look: Any) -> bool:
        work.close()
        return True

    with replaced(node_drain, "drain_within", at_once):
        yield


@mutant("n2", "a lane in memory stays a part when its node is lost")
def lost_and_kept() -> Iterator[None]:
    from polku.actors.node_watcher import NodeWatcher

    with replaced(NodeWatcher, "_drop_lost", lambda self, alive: None):
        yield


@mutant("n3", "lanes of one disk have one journal")
def one_journal() -> Iterator[None]:
    from polku.actors import nodes

    spread = nodes.spread

    def first(found: Any, here: Any, taken: Any = ()) -> Any:
        return [place._replace(number=2) for place in spread(found, here, taken)]

    with replaced(nodes, "spread", first):
        yield


@mutant("n4", "stages that lanes share serve a lane that is lost with its node")
def served_for_ever() -> Iterator[None]:
    from polku.stage.fork import Fork

    serve = Fork.serve

    def all_known(self: Any, lanes: frozenset[int], leaving: frozenset[int] = frozenset()) -> bool:
        self._known = getattr(self, "_known", frozenset()) | lanes
        return serve(self, self._known, leaving)

    with replaced(Fork, "serve", all_known):
        yield
