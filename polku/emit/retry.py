"""When a destination is tried again. Between parts of a pipeline a fixed series does it: `polku.link.transmission`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from polku import checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Wait a random time up to a bound that grows from `first` by `factor` to `limit` seconds, `attempts` times.

    "Full jitter": Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. `attempts` None: for ever.
    """

    first: float = 0.1
    factor: float = 2.0
    limit: float = 10.0
    attempts: int | None = None

    def __post_init__(self) -> None:
        checks.positive("Retry", "first", self.first)
        checks.positive("Retry", "limit", self.limit)
        checks.at_least_one("Retry", "factor", self.factor)
        if self.attempts is not None:
            checks.whole("Retry", "attempts", self.attempts)

    def delay(self, failures: int, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after that many failures in a row (from 1)."""
        bound = min(self.limit, self.first * self.factor ** min(failures - 1, 64))
        return bound * draw()

    def delay_of_settings(self, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait where settings are wrong: up to three limits, as who guesses may be locked out."""
        return 3 * self.limit * (0.5 + draw() / 2)

    def gives_up(self, failures: int) -> bool:
        """Return whether that many failures in a row are enough."""
        return self.attempts is not None and failures >= self.attempts
