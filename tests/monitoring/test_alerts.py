"""Each alert rule fires in the state that it is for, as a pipeline shows it, and none does while all is well."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from polku import (
    Batch,
    Breaker,
    BufferStrategy,
    Filter,
    Hub,
    Pipeline,
    Resilience,
    Retry,
    RetryableError,
    Tls,
    new_event,
)
from polku.errors import ChangeError
from polku.security.token_file import file_lines
from tests.monitoring.eventful import eventful, happen, values
from tests.monitoring.firing import RULES, Series, State, check, series_of
from tests.monitoring.seldom import TOKEN, happenings, seldom
from tests.monitoring.test_metrics import damage, wait_for_change
from tests.support.authority import Authority
from tests.support.server import environment

AWAY = {"PolkuUnhealthy", "PolkuDestinationAway"}


class Partner:
    """A destination that is away from the second batch on."""

    name = "partner"

    def __init__(self) -> None:
        self._calls = 0

    def emit(self, batch: Batch) -> None:
        self._calls += 1
        if self._calls > 1:
            raise RetryableError("away")


def other(batch: Batch) -> None:
    """Take everything."""


def shows(pipeline: Pipeline, name: str, is_so: Callable[[float], bool]) -> Series:
    """Return what a pipeline shows once a series whose name begins so is as it is to be."""
    limit = time.monotonic() + 30
    while True:
        found = series_of(pipeline.statistics())
        values = [value for series, (value, _) in found.items() if series.startswith(name)]
        if any(map(is_so, values)):
            return found
        assert time.monotonic() < limit, (name, values)
        time.sleep(0.05)


def all_is_well(folder: Path) -> Iterator[State]:
    hub = Hub(runtime="inline").middleware(Filter(lambda event: True)).emitter(other)
    with hub.start() as pipeline:
        sender = pipeline.sender()
        sender.send(new_event("order", source="shop"))
        before = shows(pipeline, "polku_delivery_age_seconds_count", lambda value: value == 1)
        for _ in range(10):
            sender.send(new_event("order", source="shop"))
        after = shows(pipeline, "polku_delivery_age_seconds_count", lambda value: value == 11)
    yield State("all is well", before, after, frozenset())


def a_destination_is_away_and_its_share_fills(folder: Path) -> Iterator[State]:
    away = Resilience(Partner(), retry=Retry(first=0.02, limit=0.02), breaker=Breaker(failures=2, open_for=60.0))
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(10)).emitter(away)
    with hub.start() as pipeline:
        sender = pipeline.sender()
        sender.send(new_event("order", source="shop"))
        before = shows(pipeline, "polku_delivery_age_seconds_count", lambda value: value == 1)
        sender.send([new_event("order", source="shop") for _ in range(5)])
        shows(pipeline, "polku_emitter_circuit", lambda value: value == 2)
        after = shows(pipeline, "polku_outlet_no_progress_seconds", lambda value: value > 0)
        late = AWAY | {"PolkuNoProgress", "PolkuLagging"}
        yield State("a destination is away", before, after, frozenset(late))
        sender.send([new_event("order", source="shop") for _ in range(5)])
        full = shows(pipeline, "polku_ready", lambda value: value == 0)
        yield State("its share is full", before, full, frozenset(late | {"PolkuShareFull", "PolkuNotReady"}))
        pipeline.stop(timeout=0.0)


def everything_happens(folder: Path) -> Iterator[State]:
    with eventful(str(folder / "journal.db")).start(runtime="inline") as pipeline:
        before = series_of(pipeline.statistics())
        happen(pipeline)
        happen(pipeline)
        shows(pipeline, "polku_emitter_circuit", lambda value: value == 2)
        shows(pipeline, "polku_refused_events_total{", lambda value: value > 0)
        after = shows(pipeline, "polku_plugin_up", lambda value: value == 0)
        pipeline.stop(timeout=0.0)
    alerts = AWAY | {"PolkuEventsDropped", "PolkuDeadLetters", "PolkuRefusing", "PolkuPluginAway", "PolkuShareFull"}
    alerts |= {"PolkuNoProgress", "PolkuLagging"}
    yield State("everything happens", before, after, frozenset(alerts))


def what_happens_seldom(folder: Path) -> Iterator[State]:
    ports = {"http_addr": "127.0.0.1:0", "http_token": TOKEN}
    with seldom(folder).start(runtime="inline", **ports) as pipeline:
        first = values(pipeline.statistics())
        before = series_of(pipeline.statistics())
        for names in happenings(pipeline, folder):
            wait_for_change(pipeline, first, names)
            if "polku_stage_busy_seconds" in names:
                stage = 'polku_utilization{pipeline="polku",lane="",component="stage-1"'
                busy = shows(pipeline, stage, lambda value: value > 0.95)
                yield State("a stage is stuck", before, busy, frozenset({"PolkuStageStuck", "PolkuSaturated"}))
        after = shows(pipeline, "polku_outlet_waiting_events", lambda value: value == 0)
        alerts = {"PolkuUnhealthy", "PolkuSourceAway", "PolkuDeadLetters", "PolkuDeadLettersForgotten", "PolkuGuessing"}
        yield State("what happens seldom", before, after, frozenset(alerts))
        (folder / "partner").unlink()  # what comes now stays in the journal
        pipeline.sender().send([new_event("order", source="shop") for _ in range(2)])
        pipeline.stop(timeout=0.0)
    damage(folder / "journal.db")
    with seldom(folder).start(runtime="inline") as pipeline:
        after = shows(pipeline, "polku_outlet_unreadable_events_total", lambda value: value > 0)
        pipeline.stop(timeout=0.0)
    yield State("damaged on disk", {}, after, frozenset({"PolkuEventsDamaged", "PolkuSourceAway", "PolkuUnhealthy"}))


def a_disk_is_full(folder: Path) -> Iterator[State]:
    command = [sys.executable, "-m", "tests.monitoring.full_disk", str(folder / "full.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    alerts = {"PolkuJournalFault", "PolkuUnhealthy", "PolkuNotReady", "PolkuNoProgress", "PolkuLagging"}
    alerts.add("PolkuRefusing")
    yield State("a disk is full", before, after, frozenset(alerts))


def a_certificate_is_broken(folder: Path) -> Iterator[State]:
    pair = Authority(folder).issue("server")
    with (
        Hub(runtime="inline")
        .emitter(other)
        .security(tls=Tls(pair.cert, pair.key))
        .start(grpc_addr="127.0.0.1:0") as pipeline
    ):
        before = series_of(pipeline.statistics())
        pair.cert.write_text("nothing\n")
        after = shows(pipeline, "polku_security_files_stale", lambda value: value == 1)
    yield State("a certificate is broken", before, after, frozenset({"PolkuFilesStale"}))


def a_certificate_and_a_token_end_soon(folder: Path) -> Iterator[State]:
    pair = Authority(folder).issue("server", days=7)
    (tokens := folder / "tokens.toml").write_text(file_lines("agents", "t", {}, date.today() + timedelta(days=7)))
    hub = Hub(runtime="inline").emitter(other).security(tls=Tls(pair.cert, pair.key), tokens=tokens)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        found = series_of(pipeline.statistics())
    since = time.time()  # where the clock of promtool begins
    for name, (value, counts) in found.items():
        if name.startswith(("polku_certificate_end_timestamp_seconds", "polku_token_end_timestamp_seconds")):
            found[name] = value - since, counts
    alerts = frozenset({"PolkuCertificateEnds", "PolkuTokenEnds"})
    yield State("a certificate and a token end soon", found, found, alerts)


def a_change_is_refused(folder: Path) -> Iterator[State]:
    with Hub(runtime="inline").emitter(other).start() as pipeline:
        before = series_of(pipeline.statistics())
        with pytest.raises(ChangeError):
            asyncio.run(pipeline.update(Hub(runtime="inline", name="another").emitter(other)))
        after = shows(pipeline, 'polku_reloads_total{pipeline="polku",result="refused"', lambda value: value == 1)
    yield State("a change is refused", before, after, frozenset({"PolkuReloadRefused"}))


def nothing_can_be_scraped(folder: Path) -> Iterator[State]:
    up = 'up{job="monitoring/polku",instance="10.0.0.7:50052"}'
    yield State("nothing can be scraped", {}, {up: (0.0, False)}, frozenset({"PolkuScrapeFails"}))


STATES = (
    all_is_well,
    a_destination_is_away_and_its_share_fills,
    everything_happens,
    what_happens_seldom,
    a_disk_is_full,
    a_certificate_is_broken,
    a_certificate_and_a_token_end_soon,
    a_change_is_refused,
    nothing_can_be_scraped,
)
ON_RAY = {"PolkuRestarts"}  # see `test_page_on_ray.py`


def test_each_rule_fires_in_its_state_and_no_other(tmp_path: Path) -> None:
    states = []
    for make in STATES:
        (folder := tmp_path / make.__name__).mkdir()
        states += list(make(folder))
    check(states, tmp_path)
    rules = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert set().union(*(state.alerts for state in states)) == rules - ON_RAY
