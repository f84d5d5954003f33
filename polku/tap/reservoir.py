"""A fair sample of a stream of unknown length: every item has the same chance to be in it.

Algorithm L of Kim-Hung Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))", ACM Transactions on
Mathematical Software 20(4), 1994: it draws how many items to skip, so most cost nothing. Of batches of many items it
chooses blocks of neighbours: to look into a batch costs more than to take some items of it, and most batches are not
looked into.

Most items that are taken early are pushed out again: of 125,000 items 800 are taken for a sample of 100. Where it is
known that at least a number of items will come, a sample of that number is drawn beforehand, and only what is in it is
taken. What comes later is sampled as ever, with the weight that the algorithm would have by then: the largest of the
smallest of as many random numbers, which has a beta distribution.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

_CHANCE = random.Random()  # one for all: to seed another takes longer than to choose among a thousand items
_BLOCKS = 4  # that a sample has at least
_PER_BATCH = 10  # blocks that a batch has at least


class Choice(NamedTuple):
    """Put the items from `start` to `stop` of what came into the places from `place` on; those up to `end` are free."""

    start: int
    stop: int
    place: int
    end: int


class Reservoir:
    """Choose which items of a stream stand in a sample of `size` places; who asks keeps the items.

    Where fewer than `expected` items come, the first ones have a better chance than the others.
    """

    def __init__(self, size: int, chance: random.Random | None = None, *, expected: int = 0) -> None:
        self._size = size
        self._chance = chance or _CHANCE
        self._expected = expected
        self._planned: list[tuple[int, int]] = []  # blocks that will be taken, and their places, the last one first
        self.seen = 0
        self._block = 0  # items of a block; 0 until all places are taken
        self._blocks = 0  # that have come
        self._weight = 1.0
        self._next = self._place = 0  # the block, counted from 0, that is taken next, and the place of blocks for it

    def choose(self, count: int) -> Sequence[Choice]:
        """Return which of the next `count` items to keep, and where, one choice after the other."""
        first, self.seen = self.seen, self.seen + count
        if first >= self._size and self._block:
            return self._replace(0, count)
        filled = min(max(self._size - first, 0), count)
        chosen = [Choice(0, filled, first, first + filled)] if filled else []
        if count > filled and self._size:
            self._begin(count)
            chosen += self._replace(filled, count)
        return chosen

    def _begin(self, count: int) -> None:
        """Choose among blocks from now on: all places are taken."""
        self._block = _block(self._size, count)
        places = self._blocks = self._size // self._block
        total = self._expected // self._block
        if total <= places:
            self._next = places - 1
            self._skip()
            return
        sample = self._chance.sample(range(total), places)
        free = set(range(places)).difference(sample)  # the other ones stay
        self._weight = self._chance.betavariate(places, total - places + 1)
        after = total + self._gap(), self._chance.randrange(places)
        self._planned = [after, *zip(sorted(set(sample).difference(range(places)), reverse=True), free, strict=True)]
        self._next, self._place = self._planned.pop()

    def _replace(self, start: int, count: int) -> Sequence[Choice]:
        """Return blocks of the items from `start` on of `count`, which take the places of others."""
        pieces = -(-(count - start) // self._block)
        before, self._blocks = self._blocks, self._blocks + pieces
        if self._next >= self._blocks:
            return ()
        chosen = []
        while self._next < self._blocks:
            at = self._next - before
            begin, stop = (start + (count - start) * piece // pieces for piece in (at, at + 1))
            place = self._place * self._block
            chosen.append(Choice(begin, stop, place, place + self._block))
            if self._planned:
                self._next, self._place = self._planned.pop()
            else:
                self._skip()
        return chosen

    def _skip(self) -> None:
        places = self._size // self._block
        self._weight *= math.exp(math.log(self._draw()) / places)
        self._next += self._gap() + 1
        self._place = self._chance.randrange(places)

    def _gap(self) -> int:
        """Return how many blocks are left out until the next one is taken."""
        share = math.log1p(-self._weight) if self._weight < 1.0 else -math.inf
        return int(min(math.log(self._draw()) / share, 1e18)) if share else 10**18

    def _draw(self) -> float:
        """Return a number above 0 and up to 1."""
        return 1.0 - self._chance.random()


def _block(size: int, count: int) -> int:
    """Return how many items a block has, of which the sample holds a whole number, where batches have `count`."""
    most = max(1, min(size // _BLOCKS, count // _PER_BATCH))
    return next(block for block in range(most, 0, -1) if size % block == 0)
