"""A fair sample of a stream of unknown length: every item has the same chance to be in it.

Algorithm L of Kim-Hung Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))", ACM Transactions on
Mathematical Software 20(4), 1994: it draws how many items to skip, so most cost nothing. Of batches of many items it
chooses blocks of neighbours: to look into a batch costs more than to take some items of it, and most batches are not
looked into.
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
    """Choose which items of a stream stand in a sample of `size` places; who asks keeps the items."""

    def __init__(self, size: int, chance: random.Random | None = None) -> None:
        self._size = size
        self._chance = chance or _CHANCE
        self.seen = 0
        self._block = 0  # items of a block; 0 until all places are taken
        self._blocks = 0  # that have come
        self._weight = 1.0
        self._next = 0  # the block, counted from 0, that is taken next

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
        self._blocks = self._size // self._block
        self._next = self._blocks - 1
        self._skip()

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
            place = self._chance.randrange(self._size // self._block) * self._block
            chosen.append(Choice(begin, stop, place, place + self._block))
            self._skip()
        return chosen

    def _skip(self) -> None:
        self._weight *= math.exp(math.log(self._draw()) * self._block / self._size)
        share = math.log1p(-self._weight) if self._weight < 1.0 else -math.inf
        skipped = math.log(self._draw()) / share if share else 1e18
        self._next += int(min(skipped, 1e18)) + 1

    def _draw(self) -> float:
        """Return a number above 0 and up to 1."""
        return 1.0 - self._chance.random()


def _block(size: int, count: int) -> int:
    """Return how many items a block has, of which the sample holds a whole number, where batches have `count`."""
    most = max(1, min(size // _BLOCKS, count // _PER_BATCH))
    return next(block for block in range(most, 0, -1) if size % block == 0)
