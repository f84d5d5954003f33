"""Stop asking a destination that keeps failing, and find out when it is back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from polku import checks
from polku.clock import Clock

_TOLD = 3  # failures in a row, after which it is said that a destination takes nothing: sooner than most circuits open


class State(StrEnum):
    """Say what a circuit breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing, until its time is over."""
    HALF_OPEN = "half_open"
    """One trial at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Open after `failures` in a row, try again after a while, close after `successes` in a row.

    The while is `first` seconds, twice as long each time that the trial fails, and never longer than `open_for`: what
    was away for a moment is not waited for much longer than it was away. A trial is one call: six a minute cost little,
    and what was away for 20 s is used again 6 s later (median; with 30 s instead of 10 it was 14 s). The pattern
    is Nygard's ("Release It!", 2007).
    """

    failures: int = 5
    open_for: float = 10.0
    successes: int = 2
    first: float = 1.0

    def __post_init__(self) -> None:
        checks.whole("Breaker", "failures", self.failures)
        checks.whole("Breaker", "successes", self.successes)
        checks.positive("Breaker", "open_for", self.open_for)
        checks.positive("Breaker", "first", self.first)

    def build(self, clock: Clock) -> Circuit:
        """Make the running breaker."""
        return Circuit(self, clock)


class Circuit:
    """Count failures and successes, and say how long to wait before the next call."""

    def __init__(self, config: Breaker, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._failures = self._successes = 0
        self._opened_at = 0.0
        self._open_for = config.first
        self.state = State.CLOSED

    @property
    def now(self) -> float:
        """The time in seconds by the monotonic clock that it goes by."""
        return self._clock.monotonic()

    @property
    def is_failing(self) -> bool:
        """Whether the destination takes nothing, as far as calls tell."""
        return self.state is not State.CLOSED or self._failures >= _TOLD

    def wait(self) -> float:
        """Return the seconds until a call may be made; 0 lets it through."""
        if self.state is not State.OPEN:
            return 0.0
        left = self._opened_at + self._open_for - self._clock.monotonic()
        if left > 0:
            return left
        self.state, self._successes = State.HALF_OPEN, 0
        return 0.0

    def succeeded(self) -> None:
        """Count a success; that of a call that was in flight when it opened does not close it."""
        self._failures = 0
        if self.state is State.HALF_OPEN:
            self._successes += 1
            if self._successes >= self._config.successes:
                self.state = State.CLOSED

    def close(self) -> None:
        """Let everything through: the destination has shown that it works."""
        self.state, self._failures = State.CLOSED, 0

    def failed(self) -> None:
        """Count a failure; those of calls that were in flight when it opened do not keep it open longer."""
        if self.state is State.OPEN:
            return
        self._failures += 1
        if self.state is State.HALF_OPEN or self._failures >= self._config.failures:
            longer = 2 * self._open_for if self.state is State.HALF_OPEN else self._config.first
            self._open_for = min(longer, self._config.open_for)
            self.state, self._opened_at = State.OPEN, self._clock.monotonic()
            self._failures = 0
