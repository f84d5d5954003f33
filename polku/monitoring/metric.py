"""What a metric is: its name, type, labels, unit and meaning, and how it is read from the statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from polku.monitoring.readers import Read


class Metric(NamedTuple):
    """One row of the table; `kind` is counter, gauge or histogram; a counter's name ends in `_total` when written."""

    name: str
    kind: str
    labels: tuple[str, ...]
    unit: str
    meaning: str
    read: Read


_SECONDS = tuple(number / 1_000 for number in (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000))
_SECONDS += (30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
BOUNDS: Mapping[str, tuple[float, ...]] = {"seconds": _SECONDS, "events": _EVENTS}


def counter(name: str, labels: tuple[str, ...], unit: str, meaning: str, read: Read) -> Metric:
    """Return a row for what only rises."""
    return Metric(name, "counter", labels, unit, meaning, read)


def gauge(name: str, labels: tuple[str, ...], unit: str, meaning: str, read: Read) -> Metric:
    """Return a row for what rises and falls."""
    return Metric(name, "gauge", labels, unit, meaning, read)


def histogram(name: str, labels: tuple[str, ...], unit: str, meaning: str, read: Read) -> Metric:
    """Return a row for a distribution, in the buckets of its unit."""
    return Metric(name, "histogram", labels, unit, meaning, read)
