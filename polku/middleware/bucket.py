"""A token bucket: `rate` tokens a second flow in, at most `burst` are kept (Turner 1986, "leaky bucket as a meter")."""

from __future__ import annotations

_ROUNDING = 1e-9  # ten times a tenth of a second's worth is to be a whole second's worth


class TokenBucket:
    """Take tokens while there are some; the caller tells the time, in seconds that never go back."""

    __slots__ = ("_burst", "_rate", "_then", "_tokens")

    def __init__(self, rate: float, burst: float, now: float, tokens: float | None = None) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst if tokens is None else min(burst, tokens)
        self._then = now

    def left(self, now: float) -> float:
        """Return how many tokens there are."""
        return min(self._burst, self._tokens + (now - self._then) * self._rate)

    def take(self, wanted: int, now: float) -> int:
        """Take up to `wanted` whole tokens and return how many there were."""
        self._tokens = self.left(now)
        self._then = now
        taken = min(wanted, int(self._tokens + _ROUNDING))
        self._tokens -= taken
        return taken
