"""Write the events of many metrics at once, as `polku.otlp.columns` writes those of log records and spans.

Attributes belong to the points of a metric, and are metadata where there is one point. So metrics are decoded, all of
them in a call. One with a point of four attributes costs 7.1 µs so, where `polku.otlp.writing` costs 12.3 µs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError

from polku.otlp.columns import Columns, ColumnWriter
from polku.otlp.fields import RECORD_BYTES, points_of
from polku.otlp.metadata import LOOKED_AT
from polku.otlp.projection import Projection
from polku.otlp.signals import METRICS
from polku.otlp.writing import LATEST

_METRICS = 2  # the field of a scope


class MetricColumnWriter(ColumnWriter):
    """Write the events of one scope's metrics."""

    def write(
        self, records: Sequence[bytes], spares: Sequence[str], now: int, taken: Collection[str]
    ) -> Columns | None:
        """Return the events; None where one of the metrics is to be written by itself."""
        sizes = list(map(len, records))
        if max(sizes) > RECORD_BYTES or self._room < 0 or not set(spares).isdisjoint(taken):
            return None
        try:
            scope = METRICS.messages.ScopeMetrics.FromString(_frame().framed(records))
        except DecodeError:
            return None
        points = list(map(points_of, scope.metrics))
        times = [(some[0].time_unix_nano if some else 0) or now for some in points]
        metadata = self._metadata_of_points(points)
        if metadata is None or max(times) > LATEST:
            return None
        payload = self._join(records, sizes, spares, times, [0] * len(records), metadata)
        return Columns(list(spares), payload, [max(1, len(some)) for some in points])

    def _metadata_of_points(self, points: Sequence[Sequence[Any]]) -> list[bytes] | None:
        """Return the entries of metadata of each metric that has one point; None where one may have too many."""
        if self._wanted.is_none:
            return [b""] * len(points)
        entries = self._wanted.entries
        attributes = [some[0].attributes if len(some) == 1 else () for some in points]
        if max(map(len, attributes)) > min(self._room, LOOKED_AT):
            return None
        metadata = [b"".join([entries[one.SerializeToString()] for one in own]) for own in attributes]
        entries.new.clear()
        return metadata


@cache
def _frame() -> Projection:
    """Return what makes a scope of metrics."""
    return Projection(_METRICS)
