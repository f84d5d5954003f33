"""What is handed to Ray's metrics, against what Prometheus is shown."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

import pytest
from prometheus_client import parser

from polku import Batch, Hub, new_event
from polku.actors.ray_metrics import RayMetrics
from polku.monitoring.metrics import METRICS
from tests.monitoring.eventful import values
from tests.ray.metrics_agent import EVENTS
from tests.support.server import environment


class Kept:
    """One of Ray's metrics; all of them by name."""

    found: ClassVar[dict[str, Kept]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert name not in self.found
        self.tag_keys = tag_keys
        self.samples: dict[tuple[str, ...], float] = {}
        self.found[name] = self

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self._put(self.samples.get(self._key(tags), 0.0) + value, tags)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._put(value, tags)

    def _put(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.samples[self._key(tags)] = value

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        return tuple(value for _, value in sorted(tags.items()))


class Kinds:
    """Ray's module of metrics."""

    Counter = Kept
    Gauge = Kept


def partner(batch: Batch) -> None:
    """Take everything."""


def test_ray_is_told_what_prometheus_is() -> None:
    Kept.found = {}
    kinds: Any = Kinds()
    metrics = RayMetrics(kinds)
    with Hub(runtime="inline").emitter(partner).start() as pipeline:
        for _ in range(3):
            pipeline.sender().send([new_event("order", source="shop") for _ in range(2)])
            tree = pipeline.statistics()
            metrics.hand_on(tree)
    shown = values(tree)
    for name, samples in shown.items():
        kept = Kept.found[name.removesuffix("_total")].samples
        assert {labels: value for labels, value in samples.items() if value} == {
            labels: value for labels, value in kept.items() if value
        }, name
    buckets = Kept.found["polku_ack_seconds_bucket"].samples
    assert max(buckets.values()) == 6.0


def test_a_part_that_counts_from_zero_again_adds_to_what_was_counted() -> None:
    Kept.found = {}
    kinds: Any = Kinds()
    metrics = RayMetrics(kinds)
    for counts in ((5, 5), (3, 8), (4, 9)):
        with Hub(runtime="inline").emitter(partner).start() as pipeline:
            pipeline.sender().send([new_event("order", source="shop") for _ in range(counts[0])])
            metrics.hand_on(pipeline.statistics())
        found = Kept.found["polku_component_received_events"].samples
        assert sum(value for labels, value in found.items() if "ingest" in labels) == counts[1]


@pytest.mark.slow  # a node of Ray with its agents starts
def test_the_agent_of_a_node_shows_what_the_supervisor_hands_on() -> None:
    agent = [sys.executable, "-m", "tests.ray.metrics_agent"]
    done = subprocess.run(agent, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr
    parse: Any = parser.text_string_to_metric_families
    shown: dict[str, list[Any]] = {}
    for family in parse(done.stdout):
        for sample in family.samples:
            shown.setdefault(sample.name, []).append(sample)
    for metric in METRICS:
        if f"ray_{metric.name}_count" in shown:
            bounds = {sample.labels["le"]: sample.value for sample in shown[f"ray_{metric.name}_bucket"]}
            (largest,) = {sample.labels["le"] for sample in shown[f"ray_{metric.name}_bucket"]} & {"+Inf"}
            assert bounds[largest] > 0
            assert len(bounds) > 10, metric.name  # also those that are 0
    counted = {sample.labels["component"]: sample.value for sample in shown["ray_polku_component_sent_events_total"]}
    assert counted == {"ingest": EVENTS, "stage-1": EVENTS, "emitter:partner": EVENTS}
    (sample,) = shown["ray_polku_build_info"]
    assert (sample.labels["pipeline"], sample.labels["runtime"]) == ("shop", "ray")
    always = {metric.name for metric in METRICS if metric.kind == "gauge" and metric.name.startswith("polku_outlet")}
    assert {f"ray_{name}" for name in always} <= set(shown)
