"""Bound the events per second of the whole pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from polku import checks
from polku.clock import Clock
from polku.contracts import Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.bucket import TokenBucket
from polku.middleware.configuration import Configuration


@dataclass(frozen=True, slots=True, repr=False)
class RateLimiter(Configuration):
    """Let `rate` events a second pass, and up to `burst` (default: one second's worth) at once; drop the others.

    Dropped events count as rate limited; of a batch the first ones pass.
    """

    rate: float
    burst: float | None = None

    state_key = "pipeline"

    def __post_init__(self) -> None:
        checks.positive("RateLimiter", "rate", self.rate)
        if self.burst is not None:
            checks.at_least_one("RateLimiter", "burst", self.burst)

    def build(self, clock: Clock) -> Step:
        """Make the running limiter."""
        return _Limit(self.rate, self.burst or max(self.rate, 1.0), clock)


class _Limit:
    name = "RateLimiter"
    drop_reason = "rate_limited"
    reads_only = True

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, burst, clock.monotonic())

    def process(self, events: list[Event], batch: int) -> Outcome:
        allowed = self._bucket.take(len(events), self._clock.monotonic())
        if allowed == len(events):
            return Outcome(events)
        return Outcome(events[:allowed], kept=b"\1" * allowed + b"\0" * (len(events) - allowed))

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        pass
