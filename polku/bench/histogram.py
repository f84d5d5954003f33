"""Count durations in a bounded number of buckets, as HdrHistogram does: none is wider than 1.6 % of its value."""

from __future__ import annotations

from collections.abc import Mapping

_SUB = 6  # bits of precision within a power of two
_SUBS = 1 << _SUB


class Histogram:
    """Count durations from a microsecond to hours; memory does not grow with their number."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: dict[int, int] = dict(counts or {})

    def record(self, seconds: float, count: int = 1) -> None:
        """Count a duration, so many times; one below zero counts as zero."""
        bucket = _bucket(max(0, int(seconds * 1e6)))
        self._counts[bucket] = self._counts.get(bucket, 0) + count

    def merge(self, other: Histogram) -> None:
        """Count what the other one has counted."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self._counts.values())

    def percentile(self, percent: float) -> float | None:
        """Return the seconds that so many per cent of the durations did not exceed; None where there are none."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return _upper(bucket) / 1e6
        return None

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


def _upper(bucket: int) -> int:
    """Return the largest value of a bucket."""
    if bucket < 2 * _SUBS:
        return bucket
    shift = (bucket >> _SUB) - 1
    return ((bucket - (shift << _SUB) + 1) << shift) - 1
