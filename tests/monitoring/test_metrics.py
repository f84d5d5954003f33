"""Every metric of the table is there on both runtimes, and moves when what it counts happens."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from polku.monitoring.exposition import write_metrics
from polku.monitoring.metrics import METRICS, describe_metrics, written_name
from tests.monitoring.eventful import eventful, happen, values

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
BOUNDED = {
    "pipeline",
    "lane",
    "component",
    "kind",
    "type",
    "emitter",
    "code",
    "error_type",
    "stage",
    "intentional",
    "reason",
    "version",
    "python",
    "runtime",
}
STILL = {
    "polku_buffer_max_events",  # fixed by the plan
    "polku_build_info",
    "polku_stage_held_events",  # an Aggregator's: see `test_what_happens_seldom_is_told_too`
    "polku_stage_busy_seconds",
    "polku_open_messages",
    "polku_outlet_in_flight_events",
    "polku_outlet_unreadable_events_total",
    "polku_buffer_duplicate_batches_total",
    "polku_dead_letters_forgotten_total",
    "polku_part_restarts_total",
    "polku_journal_writable",
    "polku_source_up",
}


@pytest.mark.parametrize("runtime", ["inline", "ray"])
def test_every_metric_is_there_and_moves(runtime: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if runtime == "ray":
        request.getfixturevalue("ray_session")
    names = {written_name(metric) for metric in METRICS if metric.kind != "histogram"}
    names |= {f"{metric.name}_count" for metric in METRICS if metric.kind == "histogram"}
    with eventful(str(tmp_path / "journal.db")).start(runtime=runtime) as pipeline:
        before = values(pipeline.statistics())
        happen(pipeline)
        limit = time.monotonic() + 20
        moved: set[str] = set()
        while not names - STILL <= moved:
            assert time.monotonic() < limit, names - STILL - moved
            time.sleep(0.1)
            after = values(pipeline.statistics())
            moved |= {name for name in after if after[name] != before.get(name)}
        assert names - after.keys() == set()
        pipeline.stop(timeout=0.0)
    expected = {"BUFFER_FULL", "INGESTOR_ERROR", "MIDDLEWARE_ERROR", "UNROUTABLE"}
    assert expected <= {labels[0] for labels in after["polku_refused_events_total"]}


def test_labels_are_bounded_and_names_are_good() -> None:
    for metric in METRICS:
        assert set(metric.labels) <= BOUNDED
        assert re.fullmatch("polku_[a-z_]+[a-z]", metric.name)
        assert not metric.name.endswith("_total")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_the_table_of_the_documents_is_this_one() -> None:
    assert "\n".join(describe_metrics()) in PAGE.read_text(encoding="utf-8")


def test_both_formats_are_what_a_parser_reads(tmp_path: Path) -> None:
    prometheus: Any = parser.text_string_to_metric_families
    openmetrics: Any = openmetrics_parser.text_string_to_metric_families
    with eventful(str(tmp_path / "journal.db")).start(runtime="inline") as pipeline:
        happen(pipeline)
        tree = pipeline.statistics()
        pipeline.stop(timeout=0.0)
    text, _ = write_metrics(tree)
    found = {family.name for family in prometheus(text.decode())}
    text, kind = write_metrics(tree, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    again = {family.name for family in openmetrics(text.decode())}
    assert found == again == {metric.name for metric in METRICS}
