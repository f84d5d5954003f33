"""A fair sample of a stream of unknown length: every item has the same chance to be in it.

Algorithm L of Kim-Hung Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))", ACM Transactions on
Mathematical Software 20(4), 1994: it draws how many items to skip, so most cost nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

_CHANCE = random.Random()  # one for all: to seed another takes longer than to choose among a thousand items


class Choice(NamedTuple):
    """Put the item at `position` of those that came to this `place` of the sample."""

    position: int
    place: int


class Reservoir:
    """Choose which items of a stream stand in a sample of `size` places; who asks keeps the items."""

    def __init__(self, size: int, chance: random.Random | None = None) -> None:
        self._size = size
        self._chance = chance or _CHANCE
        self.seen = 0
        self._weight = 1.0
        self._next = -1  # the item, counted from 0, that is taken next once all places are

    def choose(self, count: int) -> Iterator[Choice]:
        """Yield which of the next `count` items to keep, and where."""
        start, end = self.seen, self.seen + count
        self.seen = end
        for number in range(start, min(end, self._size)):
            yield Choice(number - start, number)
        if end >= self._size and self._next < 0:
            self._next = self._size - 1
            self._skip()
        while 0 <= self._next < end:
            yield Choice(self._next - start, self._chance.randrange(self._size))
            self._skip()

    def _skip(self) -> None:
        if not self._size:
            return
        self._weight *= math.exp(math.log(self._draw()) / self._size)
        share = math.log1p(-self._weight) if self._weight < 1.0 else -math.inf
        skipped = math.log(self._draw()) / share if share else 1e18
        self._next += int(min(skipped, 1e18)) + 1

    def _draw(self) -> float:
        """Return a number above 0 and up to 1."""
        return 1.0 - self._chance.random()
