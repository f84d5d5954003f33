"""Every metric of the table is there on both runtimes, and moves when what it counts happens."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from msgspec import structs
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from polku import Batch, BufferStrategy, Event, Hub, Pipeline, StdoutEmitter, new_event
from polku.contracts import Collecting
from polku.monitoring.exposition import write_metrics
from polku.monitoring.metrics import METRICS, describe_metrics, written_name
from tests.monitoring.eventful import Values, eventful, happen, values
from tests.monitoring.seldom import TOKEN, happenings, seldom

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
    "plan",
    "lanes",
    "ack",
    "buffer",
    "middleware",
    "candidate",
    "mode",
    "result",
    "of",
    "value",
}
FIXED = {  # by the plan
    "polku_buffer_max_event_size",
    "polku_build_info",
    "polku_plan_info",
    "polku_emitter_collect_seconds",
}
ELSEWHERE = {
    "polku_certificate_end_timestamp_seconds",
    "polku_token_end_timestamp_seconds",
    "polku_security_files_stale",
}  # gateway/test_certificate_metrics
BY_NEED = {"polku_lanes", "polku_replicas", "polku_scalings_total"}  # ray/test_scaling
SELDOM = {
    "polku_stage_held_events",
    "polku_stage_busy_seconds",
    "polku_open_messages",
    "polku_outlet_in_flight_events",
    "polku_buffer_duplicate_batches_total",
    "polku_dead_letters_forgotten_total",
    "polku_source_up",
    "polku_authentication_failures_total",
    "polku_authentication_slowed_total",
    "polku_part_restarts_total",
    "polku_outlet_unreadable_events_total",
    "polku_journal_writable",
    "polku_ready",
}
STILL = FIXED | SELDOM | ELSEWHERE


@pytest.mark.parametrize("runtime", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_metric_is_there_and_moves(runtime: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if runtime == "ray":
        request.getfixturevalue("ray_session")
    names = {written_name(metric) for metric in METRICS if metric.kind != "histogram"}
    names |= {f"{metric.name}_count" for metric in METRICS if metric.kind == "histogram"}
    names -= BY_NEED
    with eventful(str(tmp_path / "journal.db")).start(runtime=runtime) as pipeline:
        before = values(pipeline.statistics())
        happen(pipeline)
        pipeline.note_reload()
        limit = time.monotonic() + 30
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


@pytest.mark.parametrize("runtime", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_what_happens_seldom_moves_its_metric(runtime: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if runtime == "ray":
        request.getfixturevalue("ray_session")
    ports = {"http_addr": "127.0.0.1:0", "http_token": TOKEN}
    seen: set[str] = set()
    with seldom(tmp_path).start(runtime=runtime, **ports) as pipeline:
        before = values(pipeline.statistics())
        for names in happenings(pipeline, tmp_path):
            wait_for_change(pipeline, before, names)
            seen |= names
        if runtime == "ray":
            (lane,) = pipeline._runtime.parts.lanes  # type: ignore[attr-defined]
            ray.kill(lane.emitters["partner"], no_restart=False)
            wait_for_change(pipeline, before, {"polku_part_restarts_total"})
        (tmp_path / "partner").unlink()  # what comes now stays in the journal
        pipeline.sender().send([new_event("order", source="shop") for _ in range(2)])
        pipeline.stop(timeout=0.0)
    damage(tmp_path / "journal.db")
    with seldom(tmp_path).start(runtime=runtime) as pipeline:
        wait_for_change(pipeline, before, {"polku_outlet_unreadable_events_total"})
        pipeline.stop(timeout=0.0)
    assert SELDOM - seen == {
        "polku_part_restarts_total",
        "polku_outlet_unreadable_events_total",
        "polku_journal_writable",  # see the next test: no file system can be filled here
    }


def wait_for_change(pipeline: Pipeline, before: Values, names: set[str]) -> None:
    limit = time.monotonic() + 30
    while not all(values(pipeline.statistics()).get(name) != before.get(name) for name in names):
        assert time.monotonic() < limit, names
        time.sleep(0.05)


def damage(path: Path) -> None:
    """Change the bytes of every batch in a journal behind its back."""
    with contextlib.closing(sqlite3.connect(path)) as journal, journal:
        assert journal.execute("UPDATE batch SET payload = zeroblob(length(payload))").rowcount > 0


def test_a_journal_that_cannot_be_written_is_in_its_metric(tmp_path: Path) -> None:
    with seldom(tmp_path).start(runtime="inline") as pipeline:
        tree = pipeline.statistics()
        (lane,) = tree.lanes
        assert lane.buffer is not None
        assert lane.buffer.journal is not None
        journal = structs.replace(lane.buffer.journal, fault="the disk is full")
        buffer = structs.replace(lane.buffer, journal=journal)
        full = structs.replace(tree, lanes=(structs.replace(lane, buffer=buffer),))
    assert [list(values(one)["polku_journal_writable"].values()) for one in (tree, full)] == [[1.0], [0.0]]


class Files:
    """A destination that wants many events at once."""

    name = "stdout"

    def __init__(self, seconds: float) -> None:
        self.collecting = Collecting(100, 100_000, seconds, 1, 100_000)

    def group(self, event: Event) -> str:
        return ""

    def emit(self, batch: Batch) -> None:
        """Take everything."""


def test_what_the_plan_fixes_differs_between_plans() -> None:
    found: dict[str, list[object]] = {name: [] for name in FIXED}
    for capacity, emitter in ((10, StdoutEmitter()), (20, Files(60.0))):
        hub = Hub(runtime="inline", name=f"shop-{capacity}").buffer_strategy(BufferStrategy.ring(capacity))
        with hub.emitter(emitter).start() as pipeline:
            tree = pipeline.statistics()
        for name, samples in values(tree).items():
            if name in FIXED:
                found[name].append(samples)
    assert all(first != second for first, second in found.values())


def test_names_of_vector_have_their_meaning_here_too() -> None:
    names = {written_name(metric) for metric in METRICS}
    parts = [f"component_{way}_{what}_total" for way in ("received", "sent") for what in ("events", "bytes")]
    parts += ["component_errors_total", "component_discarded_events_total", "utilization"]
    buffers = [f"buffer_{way}_{what}_total" for way in ("received", "sent") for what in ("events", "event_bytes")]
    buffers += ["buffer_events", "buffer_byte_size", "buffer_max_event_size", "buffer_discarded_events_total"]
    assert {f"polku_{name}" for name in [*parts, *buffers]} <= names
    hub = Hub(runtime="inline").emitter(StdoutEmitter()).emitter(Files(0.0), name="files")
    with hub.start() as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(3)])
        limit = time.monotonic() + 30
        while list((seen := values(pipeline.statistics()))["polku_buffer_sent_events_total"].values()) != [6.0]:
            assert time.monotonic() < limit, seen
            time.sleep(0.05)
    (taken,), (left,) = (seen[f"polku_buffer_{way}_event_bytes_total"].values() for way in ("received", "sent"))
    assert list(seen["polku_buffer_received_events_total"].values()) == [3.0]
    assert left == 2 * taken > 0


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
        pipeline.note_reload()
        tree = pipeline.statistics()
        pipeline.stop(timeout=0.0)
    text, _ = write_metrics(tree)
    found = {family.name for family in prometheus(text.decode())}
    text, kind = write_metrics(tree, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    again = {family.name for family in openmetrics(text.decode())}
    assert found == again == {metric.name for metric in METRICS}
