"""How many events go in one call of an emitter: all of a batch, or fewer where that many are too late or fail."""

from __future__ import annotations

import math

_ALL = 1 << 16  # events, more than any batch has: nothing is cut


class PieceSize:
    """The number of events in a call; None: all that are left."""

    def __init__(self) -> None:
        self.events: int | None = None
        self._late_after = 0.0

    def of(self, length: int) -> int:
        """Return how many of that many events go in one call."""
        return self.events or length

    def cut(self, events: int) -> None:
        """Send half of that many events at once from now on, in which those at fault are looked for."""
        self.events, self._late_after = events // 2, math.inf

    def shrink(self, events: int, seconds: float) -> None:
        """Send half as many events at once from now on: that many took too long."""
        self.events, self._late_after = max(1, events // 2), seconds

    def grow(self, events: int, seconds: float) -> None:
        """Send twice as many at once where as many as we send have taken a small part of what was too long."""
        if self.events == events and 4 * seconds < self._late_after:
            self.events *= 2
            if self.events >= _ALL:
                self.events = None
