"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """Tell the time that the test has set; both readings move together, but by `set`."""

    def __init__(self, *, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = start_ns
        self._elapsed = 0.0

    def time_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        return self._start_ns + round(self._elapsed * 1e9)

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._elapsed += seconds

    def set(self, seconds: float) -> None:
        """Set the machine's time forward, or back, while no time passes."""
        self._start_ns += round(seconds * 1e9)
