"""Faults of lanes that come and go: found in cases that have such."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.simulation.mutants.faults import mutant, replaced


@mutant("l1", "a lane that leaves is ended before its outlets are empty")
def ended_early() -> Iterator[None]:
    from polku.actors.lanes import Lanes

    async def at_once(self: Any, lane: Any, shared: Any) -> bool:
        return True

    with replaced(Lanes, "_is_empty", at_once):
        yield


@mutant("l2", "stages that lanes share do not hear which lanes leave")
def nobody_says_who_leaves() -> Iterator[None]:
    from polku.stage.fork import Fork

    serve = Fork.serve
    with replaced(Fork, "serve", lambda self, lanes, leaving: serve(self, lanes)):
        yield


@mutant("l3", "a lane that joins is none that shared stages serve")
def unknown_lane() -> Iterator[None]:
    from polku.stage.fork import Fork

    serve = Fork.serve

    def first_known(self: Any, lanes: frozenset[int], leaving: frozenset[int]) -> bool:
        self._first = getattr(self, "_first", lanes)
        return serve(self, lanes & self._first, leaving)

    with replaced(Fork, "serve", first_known):
        yield
