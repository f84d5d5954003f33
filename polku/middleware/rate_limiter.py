"""Bound the events per second of the whole pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    state_form = "tokens 1"

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
        self._rate, self._burst = rate, burst
        self._bucket = TokenBucket(rate, burst, clock.monotonic())

    def process(self, events: list[Event], batch: int) -> Outcome:
        allowed = self._bucket.take(len(events), self._clock.monotonic())
        if allowed == len(events):
            return Outcome(events)
        return Outcome(events[:allowed], kept=b"\1" * allowed + b"\0" * (len(events) - allowed))

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        pass

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state: the tokens that are left."""
        return {"tokens": self._bucket.left(self._clock.monotonic())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another one; more tokens than this one's burst are forfeited."""
        self._bucket = TokenBucket(self._rate, self._burst, self._clock.monotonic(), state["tokens"])
