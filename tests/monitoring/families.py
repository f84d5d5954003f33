"""The metrics of a pipeline as `prometheus_client` has them: what POLKU writes by itself is held against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import exposition
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics

from polku.histogram import Distribution, Histogram
from polku.monitoring.metric import BOUNDS, Metric
from polku.monitoring.metrics import METRICS
from polku.monitoring.statistics import PipelineStatistics


class _Scrape:
    """What `prometheus_client` asks for families."""

    def __init__(self, tree: PipelineStatistics) -> None:
        self._tree = tree

    def collect(self) -> Iterator[Family]:
        return families(self._tree)


def written(tree: PipelineStatistics, *, is_open: bool) -> tuple[bytes, str]:
    """Return what `prometheus_client` writes, in its text format or as OpenMetrics, and the content type of that."""
    writer: Any = openmetrics if is_open else exposition
    return writer.generate_latest(_Scrape(tree)), writer.CONTENT_TYPE_LATEST


def families(tree: PipelineStatistics) -> Iterator[Family]:
    """Yield every metric of the table, with its samples."""
    return (_family(metric, tree) for metric in METRICS)


def _family(metric: Metric, tree: PipelineStatistics) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, value in metric.read(tree):
            assert isinstance(value, Distribution)
            histogram.add_metric(labels, _buckets(metric.unit, value), value.sum)
        return histogram
    make: Any = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in metric.read(tree):
        family.add_metric(labels, value)
    found: Family = family
    return found


def _buckets(unit: str, value: Distribution) -> list[tuple[str, float]]:
    """Return how many values did not exceed each bound, counted one by one."""
    counts = [sum(count for top, count in value.counts() if top <= _last(bound, value)) for bound in BOUNDS[unit]]
    numbers = zip(BOUNDS[unit], counts, strict=True)
    return [*((f"{float(bound)}", count) for bound, count in numbers), ("+Inf", value.count)]


def _last(bound: float, value: Distribution) -> float:
    """Return the largest value of the bucket that a bound is in."""
    one = Histogram(unit=value.unit)
    one.record(bound + value.unit / 2)
    ((found, _),) = one.distribution().counts()
    return found
