"""Find out which batch kills its receiver.

When a receiver dies, every batch that was under way to it is a suspect. Suspects are pushed again one at a time, lowest
number first, and nothing behind them; who survives is cleared. A batch that was alone when its receiver died, for the
third death in all, is cut into parts that are pushed one by one, down to the single event that is at fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from math import isqrt

from polku.batch import Batch

DEATHS = 3
"""So many deaths of its receiver make a batch a culprit: the first may be chance, and another's fault."""


class Suspects:
    """Count the deaths that each batch under way has seen, and let suspects go one at a time."""

    def __init__(self) -> None:
        self._deaths: dict[int, int] = {}
        self._cleared = asyncio.Event()

    async def wait_turn(self, seq: int) -> None:
        """Return when a batch may be pushed: at once, unless another with a lower number is under suspicion."""
        while self._deaths and seq > min(self._deaths):
            self._cleared.clear()
            await self._cleared.wait()

    def accuse(self, seq: int) -> bool:
        """Count a death of the receiver of this batch; return whether the batch is a culprit."""
        self._deaths[seq] = self._deaths.get(seq, 0) + 1
        return self._deaths[seq] >= DEATHS

    def hold_others(self, seq: int) -> None:
        """Let nothing behind this batch be pushed before it is answered: what failed is tried again in order."""
        self._deaths.setdefault(seq, 0)

    def clear(self, seq: int) -> None:
        """Forget a batch that was answered."""
        if self._deaths.pop(seq, None) is not None:
            self._cleared.set()


def divide(batch: Batch) -> Iterator[Batch]:
    """Cut a batch into about the square root of its number of parts: two levels lead to the single event.

    Halves would need fewer pushes, but a death for each level, and deaths are what costs time.
    """
    size = max(1, isqrt(len(batch)))
    rest = batch
    while len(rest) > size:
        part, rest = rest.split(size)
        yield part
    yield rest
