"""Decide which dead letters go where there is no room for all: one kind hardly costs another one's.

A kind is an emitter and a code; of each, the letters of different principals are apart, where events are stamped with
their principal. Such a part that has just grown pushes out its own oldest letters once it has more than a sixteenth of
the room: whoever floods a pipeline with events that cannot be routed pushes out those. A part that has less takes its
room from the one that has the most.
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


class PrincipalLetters(NamedTuple):
    """The letters of a kind whose events are of one principal (empty: they are not stamped)."""

    emitter: str
    code: str
    principal: str = ""

    @property
    def kind(self) -> Kind:
        """The kind that it is a part of."""
        return Kind(self.emitter, self.code)


class Cut(NamedTuple):
    """Say which part loses its oldest letters, and how many of them, or bytes of them."""

    part: PrincipalLetters
    amount: int


def next_cut(sizes: Mapping[PrincipalLetters, int], grown: Collection[PrincipalLetters], room: int) -> Cut | None:
    """Return what has to go first; None where all is within the room. `sizes` are letters or bytes."""
    over = sum(sizes.values()) - room
    if over <= 0:
        return None
    share = max(1, room // _SHARES)
    own = [part for part in grown if sizes.get(part, 0) > share]
    part = max(own or sizes, key=lambda part: sizes[part])
    kept = share if own else max((size for other, size in sizes.items() if other != part), default=0)
    return Cut(part, max(1, min(over, sizes[part] - kept)))


def describe(forgotten: Mapping[Kind, int]) -> str:
    """Return the counts of each kind for people, the largest first."""
    most = sorted(forgotten.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{kind} {count}" for kind, count in most)
