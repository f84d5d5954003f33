"""Decide which dead letters go where there is no room for all: one kind hardly costs another one's.

A kind is an emitter and a code. A kind that has just grown pushes out its own oldest letters once it has more than a
sixteenth of the room: whoever floods a pipeline with events that cannot be routed pushes out those. A kind that has
less takes its room from the one that has the most.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

_SHARES = 16


class Kind(NamedTuple):
    """What dead letters have in common: the emitter (empty: they got to none) and the code."""

    emitter: str
    code: str

    def __str__(self) -> str:
        return f"{self.emitter or '-'} {self.code}"


class Cut(NamedTuple):
    """Say which kind loses its oldest letters, and how many of them, or bytes of them."""

    kind: Kind
    amount: int


def next_cut(sizes: Mapping[Kind, int], grown: Collection[Kind], room: int) -> Cut | None:
    """Return what has to go first; None where all is within the room. `sizes` are letters or bytes."""
    over = sum(sizes.values()) - room
    if over <= 0:
        return None
    share = max(1, room // _SHARES)
    own = [kind for kind in grown if sizes.get(kind, 0) > share]
    kind = max(own or sizes, key=lambda kind: sizes[kind])
    kept = share if own else max((size for other, size in sizes.items() if other != kind), default=0)
    return Cut(kind, max(1, min(over, sizes[kind] - kept)))


def describe(forgotten: Mapping[Kind, int]) -> str:
    """Return the counts of each kind for people, the largest first."""
    most = sorted(forgotten.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{kind} {count}" for kind, count in most)
