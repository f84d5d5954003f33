"""What POLKU writes for Prometheus is what `prometheus_client` writes of the same samples, byte for byte."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec import structs

from polku.histogram import Distribution
from polku.monitoring.exposition import write_metrics
from polku.monitoring.statistics import PipelineStatistics
from tests.monitoring.eventful import eventful, happen
from tests.monitoring.families import written

OPEN = "application/openmetrics-text; version=1.0.0"
NUMBERS = (0.0, 1.0, -1.0, 999_999.0, 1_000_000.0, 1_234_567.5, 1e15, 1.5e16, 1e300, 2.5e-7, 1e-5, -12_345_678.0)
UNUSUAL = (*NUMBERS, math.inf, -math.inf, math.nan)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> PipelineStatistics:
    journal: Path = tmp_path_factory.mktemp("journal") / "journal.db"
    with eventful(str(journal)).start(runtime="inline") as pipeline:
        happen(pipeline)
        pipeline.note_reload()
        found = pipeline.statistics()
        pipeline.stop(timeout=0.0)
    return found


def check(tree: PipelineStatistics) -> None:
    assert write_metrics(tree) == written(tree, is_open=False)
    assert write_metrics(tree, OPEN) == written(tree, is_open=True)


def test_of_a_busy_pipeline(tree: PipelineStatistics) -> None:
    check(tree)


def test_of_names_that_end_a_label(tree: PipelineStatistics) -> None:
    for name in ('a"b', "a\\b", "a\nb", 'Zoë "\\\n', "", "}"):
        check(structs.replace(tree, pipeline=name))


@pytest.mark.parametrize("number", UNUSUAL)
def test_of_unusual_numbers(tree: PipelineStatistics, number: float) -> None:
    check(structs.replace(tree, uptime_seconds=number))


def test_of_values_in_every_bucket(tree: PipelineStatistics) -> None:
    (lane,) = tree.lanes
    assert lane.ingest is not None
    times, sizes = (Distribution(dict.fromkeys(range(3_000), 2), 12.5, unit) for unit in (1e-6, 1.0))
    ingest = structs.replace(lane.ingest, ack_seconds=times, batch_events=sizes)
    check(structs.replace(tree, lanes=(structs.replace(lane, ingest=ingest),)))


def test_of_parts_that_come_and_go(tree: PipelineStatistics) -> None:
    (lane,) = tree.lanes
    for lanes in ((), (lane,), (structs.replace(lane, name="lane-1"), structs.replace(lane, name="lane-2")), (lane,)):
        check(structs.replace(tree, lanes=lanes))
