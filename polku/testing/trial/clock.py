"""A clock that stands still until it is told to advance, or nothing is left to do."""

from __future__ import annotations

from datetime import UTC, datetime

_START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
_MONOTONIC_NS = 1_000_000_000_000


class VirtualClock:
    """Tell a time that passes only when everything waits for it; `start_ns` is Unix time in nanoseconds.

    One clock can serve several runs: each begins when the one before has ended.
    """

    def __init__(self, start_ns: int = _START_NS) -> None:
        self._start_ns = start_ns
        self._passed_ns = 0

    @property
    def seconds(self) -> float:
        """The seconds that have passed since the start."""
        return self._passed_ns / 1e9

    @property
    def now(self) -> datetime:
        """The time as a `datetime` in UTC."""
        return datetime.fromtimestamp(self.time_ns() / 1e9, UTC)

    def time_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        return self._start_ns + self._passed_ns

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return (_MONOTONIC_NS + self._passed_ns) / 1e9

    def advance(self, seconds: float) -> None:
        """Let that many seconds pass."""
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r}: time does not go back; give a number of at least 0")
        self._passed_ns += round(seconds * 1e9)

    def __repr__(self) -> str:
        return f"VirtualClock({self.now.isoformat()})"
