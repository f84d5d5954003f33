"""How much of the time a part is at work: noted twice a batch, asked from any thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

_WINDOW_SECONDS = 5.0


class WorkTime(Struct, frozen=True):
    """The seconds that a part has been at work since its start, and its share of the latest five to ten seconds."""

    seconds: float = 0.0
    share: float = 0.0


class Busy:
    """Add up the time between `begin` and `end`; what overlaps counts once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._depth = 0
        self._since = self._total = 0.0
        self._before = self._now = (clock(), 0.0)  # looks, the later one at least a window ago or the first

    def begin(self) -> None:
        """Note that work begins."""
        if not self._depth:
            self._since = self._clock()
        self._depth += 1

    def end(self) -> None:
        """Note that work ends."""
        self._depth -= 1
        if not self._depth:
            self._total += self._clock() - self._since

    def work(self) -> WorkTime:
        """Return how much that was; what is in flight counts."""
        now = self._clock()
        seconds = self._total + (now - self._since if self._depth else 0.0)
        if now - self._now[0] >= _WINDOW_SECONDS:
            self._before, self._now = self._now, (now, seconds)
        then, before = self._before
        share = (seconds - before) / (now - then) if now > then else 0.0
        return WorkTime(seconds, min(max(share, 0.0), 1.0))
