"""Hand the metrics to Ray's own, which its dashboard and whoever scrapes the cluster see: from the supervisor alone.

Ray's histograms take single values, so that one of ours becomes three gauges that only rise, named as Prometheus names
them: `_bucket` with the label `le`, `_sum` and `_count`. They are no counters, since Ray would put `_total` behind such
names and leave out what is 0. Ray puts `ray_` before every name.
"""

from __future__ import annotations

from typing import Any, Protocol

from polku.histogram import Distribution
from polku.monitoring.metric import BOUNDS, Metric
from polku.monitoring.metrics import METRICS
from polku.monitoring.statistics import PipelineStatistics

INTERVAL_SECONDS = 5.0
"""Between two times that the metrics are handed on; Ray itself reports every 10 s."""


class Kinds(Protocol):
    """Ray's module of metrics."""

    Counter: Any
    Gauge: Any


class RayMetrics:
    """Keep Ray's metrics where the statistics are: counters rise by what was counted since."""

    def __init__(self, kinds: Kinds | None = None) -> None:
        if kinds is None:
            from ray.util import metrics as kinds
        self._kinds: Any = kinds
        self._metrics: dict[str, Any] = {}
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def hand_on(self, tree: PipelineStatistics) -> None:
        """Take what the parts have counted."""
        for metric in METRICS:
            for labels, value in metric.read(tree):
                if isinstance(value, Distribution):
                    self._hand_on_distribution(metric, labels, value)
                elif metric.kind == "counter":
                    self._raise_to(metric.name, metric.meaning, metric.labels, labels, value)
                else:
                    self._set(metric.name, metric.meaning, metric.labels, labels, float(value))

    def _hand_on_distribution(self, metric: Metric, labels: tuple[str, ...], value: Distribution) -> None:
        bounds = BOUNDS[metric.unit]
        below = [(f"{bound:g}", float(count)) for bound, count in zip(bounds, value.cumulative(bounds), strict=True)]
        for bound, count in [*below, ("+Inf", float(value.count))]:
            names = (*metric.labels, "le")
            self._set(f"{metric.name}_bucket", metric.meaning, names, (*labels, bound), count)
        self._set(f"{metric.name}_sum", metric.meaning, metric.labels, labels, value.sum)
        self._set(f"{metric.name}_count", metric.meaning, metric.labels, labels, float(value.count))

    def _set(self, name: str, meaning: str, names: tuple[str, ...], labels: tuple[str, ...], value: float) -> None:
        self._metric("Gauge", name, meaning, names).set(value, dict(zip(names, labels, strict=True)))

    def _raise_to(self, name: str, meaning: str, names: tuple[str, ...], labels: tuple[str, ...], value: float) -> None:
        """Raise a counter by what has come since; a part that was restarted has counted from zero again."""
        before = self._counted.get((name, labels), 0.0)
        more = value - before if value >= before else value
        self._counted[name, labels] = value
        counter = self._metric("Counter", name, meaning, names)
        if more > 0:
            counter.inc(more, dict(zip(names, labels, strict=True)))

    def _metric(self, kind: str, name: str, meaning: str, labels: tuple[str, ...]) -> Any:
        if name not in self._metrics:
            self._metrics[name] = getattr(self._kinds, kind)(name, meaning, labels)
        return self._metrics[name]
