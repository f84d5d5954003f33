"""What is known of a number that changes by need: for statistics, health and metrics."""

from __future__ import annotations

from msgspec import Struct


class Scale(Struct, frozen=True):
    """How many lanes there are, or replicas of a stage (`of`): now, wanted, at least and at most.

    `ups` and `downs` count the changes that were done, `failures` those that were not; `reason` is why the latest one
    was wanted, `fault` why it was not done, and empty where it was.
    """

    of: str
    number: int
    wanted: int
    least: int
    most: int
    ups: int = 0
    downs: int = 0
    failures: int = 0
    reason: str = ""
    fault: str = ""
