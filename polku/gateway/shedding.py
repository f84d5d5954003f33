"""Ask some of a port's connections to go on elsewhere: lanes were added, and those that stay would leave them idle."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Protocol

MOVED = "there are more lanes now"
_STEPS = 10  # in which connections are asked


class Leaver(Protocol):
    """A connection that can be asked to leave."""

    @property
    def is_leaving(self) -> bool:
        """Whether it was asked, or ends for another reason."""

    def leave(self, why: str) -> None:
        """Have the client go on with another connection, once what it has begun has its answer."""


def staying(connections: Iterable[Leaver]) -> int:
    """Return how many connections have not been asked to leave."""
    return sum(not each.is_leaving for each in connections)


async def shed(connections: Iterable[Leaver], count: int, seconds: float) -> None:
    """Ask that many of them to leave, chosen by chance, spread over some seconds: all at once would connect at once."""
    there = [each for each in connections if not each.is_leaving]
    going = random.sample(there, min(count, len(there)))
    for step in range(_STEPS):
        for each in going[step::_STEPS]:
            each.leave(MOVED)
        if step + 1 >= min(_STEPS, len(going)):
            return
        await asyncio.sleep(seconds / _STEPS)
