"""Write the metrics of a pipeline for Prometheus: in its text format, or as OpenMetrics for who asks for that.

`prometheus_client` is imported at the first scrape: it takes 2 MB and a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from polku.histogram import Distribution
from polku.monitoring.metric import BOUNDS, Metric
from polku.monitoring.metrics import METRICS
from polku.monitoring.statistics import PipelineStatistics

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family


class _Scrape:
    """What `prometheus_client` asks for families."""

    def __init__(self, tree: PipelineStatistics) -> None:
        self._tree = tree

    def collect(self) -> Iterator[Family]:
        return families(self._tree)


def write_metrics(tree: PipelineStatistics, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics and their content type, chosen by the `Accept` header of who asks."""
    from prometheus_client import exposition
    from prometheus_client.openmetrics import exposition as openmetrics

    writer: Any = openmetrics if "application/openmetrics-text" in accept else exposition
    return writer.generate_latest(_Scrape(tree)), writer.CONTENT_TYPE_LATEST


def families(tree: PipelineStatistics) -> Iterator[Family]:
    """Yield every metric of the table, with its samples."""
    return (_family(metric, tree) for metric in METRICS)


def _family(metric: Metric, tree: PipelineStatistics) -> Family:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, value in metric.read(tree):
            assert isinstance(value, Distribution)
            histogram.add_metric(labels, _buckets(metric.unit, value), value.sum)
        return histogram
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family: Any = make(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in metric.read(tree):
        family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]


def _buckets(unit: str, value: Distribution) -> list[tuple[str, float]]:
    bounds = BOUNDS[unit]
    counts = value.cumulative(bounds)
    return [*((f"{float(bound)}", count) for bound, count in zip(bounds, counts, strict=True)), ("+Inf", value.count)]
