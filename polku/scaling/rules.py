"""What a user says about the number of lanes and replicas: from how many to how many, and when there are others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from polku import checks
from polku.errors import PlanError

MOST = 1000


class Range(NamedTuple):
    """From how many to how many there may be."""

    min: int
    max: int

    def clamp(self, count: int) -> int:
        """Return the number within the range that is the nearest."""
        return min(max(count, self.min), self.max)

    def __str__(self) -> str:
        return f"{self.min} to {self.max}"


def range_of(where: str, least: object, most: object) -> Range:
    """Return a range; raises `PlanError` that names the field."""
    for field, value in (("min", least), ("max", most)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
            raise checks.fault(where, field, value, f"must be a whole number from 1 to {MOST}")
    assert isinstance(least, int)
    assert isinstance(most, int)
    if most < least:
        raise checks.fault(where, "max", most, f"must be at least min={least}")
    return Range(least, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Say when there are too few lanes or replicas, or more than are needed.

    There are too few while the oldest event has waited for `oldest_seconds`, or they are at work for the share `busy`
    of their time (0 to 1), for `up_seconds` without a break. There are more than are needed while the oldest event has
    waited for less than half of `oldest_seconds`, and one fewer would be at work for at most the share `idle`, for
    `down_seconds`. After each change there is none for `pause_seconds`, and longer after one that failed. What is new
    has `start_seconds` to start: choose more than your cluster takes for a new node.
    """

    oldest_seconds: float = 5.0
    busy: float = 0.8
    idle: float = 0.5
    up_seconds: float = 5.0
    down_seconds: float = 120.0
    pause_seconds: float = 10.0
    start_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("oldest_seconds", "up_seconds", "down_seconds", "pause_seconds", "start_seconds"):
            checks.positive("Scaling", name, getattr(self, name))
        for name in ("busy", "idle"):
            checks.fraction("Scaling", name, getattr(self, name))
        if self.idle >= self.busy:
            fix = f"must be less than busy={self.busy:g}, or lanes would come and go all the time"
            raise checks.fault("Scaling", "idle", self.idle, fix)
        if self.down_seconds < self.up_seconds:
            fix = f"must be at least up_seconds={self.up_seconds:g}, or lanes would come and go all the time"
            raise checks.fault("Scaling", "down_seconds", self.down_seconds, fix)


def replicas_of(value: object) -> tuple[int, Range | None]:
    """Return how many replicas there are at first, and the range where one is chosen; raises `PlanError`."""
    if isinstance(value, tuple | list) and len(value) == 2:
        bounds = range_of("replicas", *value)
        return bounds.min, bounds if bounds.min < bounds.max else None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        fix = f"replicas={checks.shorten(value)} must be a whole number from 1 to {MOST}, or two: replicas=(1, 8)"
        raise PlanError(fix, where="middleware")
    return value, None
