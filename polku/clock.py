"""Time as the components see it, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tell the time: Unix nanoseconds for what is written down, monotonic seconds for intervals."""

    def time_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        ...


class SystemClock:
    """Tell the machine's time."""

    def time_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        return time.monotonic()
