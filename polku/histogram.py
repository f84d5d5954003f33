"""Count values in a bounded number of buckets, as HdrHistogram does: none is wider than 1.6 % of its value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

_SUB = 6  # bits of precision within a power of two
_SUBS = 1 << _SUB
_PERCENTILES = (50, 90, 99, 100)
MICROSECOND = 1e-6


class Distribution:
    """What a histogram has counted: how many values fell into each bucket, and their sum.

    `unit` is the smallest difference that it tells: 1e-6 for seconds, 1.0 for whole numbers. It is no Struct, since
    msgspec would write its buckets where JSON has percentiles.
    """

    __slots__ = ("buckets", "sum", "unit")

    def __init__(self, buckets: Mapping[int, int] | None = None, sum: float = 0.0, unit: float = MICROSECOND) -> None:
        self.buckets: Mapping[int, int] = {} if buckets is None else buckets
        self.sum = sum
        self.unit = unit

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Distribution):
            return NotImplemented
        return (self.buckets, self.sum, self.unit) == (other.buckets, other.sum, other.unit)

    __hash__ = None  # type: ignore[assignment]  # as that of what it holds

    def __repr__(self) -> str:
        return f"Distribution(buckets={self.buckets!r}, sum={self.sum!r}, unit={self.unit!r})"

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.buckets.values())

    def percentile(self, percent: float) -> float | None:
        """Return what so many per cent of the values did not exceed; None where there are none."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return _upper(bucket) * self.unit
        return None

    def cumulative(self, bounds: Sequence[float]) -> list[int]:
        """Return for each bound, in rising order, how many values did not exceed it, within the buckets' precision."""
        counts = [0] * (len(bounds) + 1)
        limits = _limits(tuple(bounds), self.unit)
        for bucket, count in self.buckets.items():
            counts[bisect_left(limits, bucket)] += count
        return list(accumulate(counts[:-1]))

    def counts(self) -> list[tuple[float, int]]:
        """Return the largest value of each bucket that has some, in rising order, and how many it has."""
        return [(_upper(bucket) * self.unit, count) for bucket, count in sorted(self.buckets.items())]

    def merged(self, other: Distribution) -> Distribution:
        """Return a distribution of the values of both."""
        buckets = dict(self.buckets)
        for bucket, count in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count
        return Distribution(buckets, self.sum + other.sum, self.unit)

    def to_json(self) -> dict[str, float | None]:
        """Return the count, the sum and some percentiles, `p100` being the largest."""
        buckets = sorted(self.buckets)
        reached = list(accumulate(self.buckets[bucket] for bucket in buckets))
        count = reached[-1] if reached else 0
        told: dict[str, float | None] = {"count": count, "sum": self.sum}
        for percent in _PERCENTILES:
            place = bisect_left(reached, count * percent / 100)
            told[f"p{percent}"] = _upper(buckets[place]) * self.unit if count else None
        return told


class Histogram:
    """Count durations from a microsecond to hours, or whole numbers; memory does not grow with how many there are."""

    __slots__ = ("_counts", "_per_unit", "_sum", "_unit")

    def __init__(self, counts: Mapping[int, int] | None = None, *, unit: float = MICROSECOND) -> None:
        self._counts: dict[int, int] = dict(counts or {})
        self._sum = 0.0
        self._unit = unit
        self._per_unit = round(1 / unit)

    def record(self, value: float, count: int = 1) -> None:
        """Count a value, so many times; one below zero counts as zero."""
        if value < 0:
            value = 0.0
        bucket = int(value * self._per_unit)
        if bucket >= 2 * _SUBS:  # as in `_bucket`, without a call
            shift = bucket.bit_length() - _SUB - 1
            bucket = (shift << _SUB) + (bucket >> shift)
        self._counts[bucket] = self._counts.get(bucket, 0) + count
        self._sum += value * count

    def merge(self, other: Histogram) -> None:
        """Count what the other one has counted."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self._sum += other._sum

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts.values())

    def percentile(self, percent: float) -> float | None:
        """Return what so many per cent of the values did not exceed; None where there are none."""
        return self.distribution().percentile(percent)

    def distribution(self) -> Distribution:
        """Return what was counted until now; from any thread."""
        return Distribution(self._counts.copy(), self._sum, self._unit)

    def to_json(self) -> dict[str, int]:
        """Return the buckets, for `from_json` in another process."""
        return {str(bucket): count for bucket, count in self._counts.items()}

    @classmethod
    def from_json(cls, counts: Mapping[str, int]) -> Histogram:
        """Read what `to_json` returned."""
        return cls({int(bucket): count for bucket, count in counts.items()})


def _bucket(value: int) -> int:
    if value < 2 * _SUBS:
        return value
    shift = value.bit_length() - _SUB - 1
    return (shift << _SUB) + (value >> shift)


@lru_cache(maxsize=8)
def _limits(bounds: tuple[float, ...], unit: float) -> list[int]:
    """Return the last bucket whose values do not exceed each bound."""
    return [_bucket(round(bound / unit)) for bound in bounds]


def _upper(bucket: int) -> int:
    """Return the largest value of a bucket."""
    if bucket < 2 * _SUBS:
        return bucket
    shift = (bucket >> _SUB) - 1
    return ((bucket - (shift << _SUB) + 1) << shift) - 1
