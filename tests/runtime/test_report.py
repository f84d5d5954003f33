"""A stop says what is lost: what senders were told is in, and no emitter will get."""

from __future__ import annotations

from pathlib import Path

import pytest

from polku import BufferStrategy, Hub
from polku.buffer.statistics import OutletStatistics
from polku.runtime.changing import ChangingLane
from polku.runtime.report import EmitterReport, add_up, report_outcome, stop_report


def hub(strategy: BufferStrategy | None = None) -> Hub:
    hub = Hub(runtime="inline").emitter(print, name="must").emitter(print, name="may", required=False)
    return hub.buffer_strategy(strategy) if strategy is not None else hub


def test_what_was_left_in_memory_is_lost_where_it_was_promised() -> None:
    emitters = {"must": EmitterReport(5, 1, 0, 3), "may": EmitterReport(0, 0, 0, 99)}
    report = stop_report(hub().plan(), emitters, complete=False, seconds=1.0)
    assert report.lost == {"must": 3}
    assert report.loss == "acknowledged events are lost: 3 of emitter must"
    assert str(report).startswith("must: 5 delivered, 1 dead letter, 0 dropped, 3 lost; may:")


def test_at_the_delivered_level_nobody_was_told_that_it_is_in() -> None:
    emitters = {"must": EmitterReport(5, 0, 0, 3)}
    report = stop_report(hub().ack("delivered").plan(), emitters, complete=False, seconds=1.0, silent=["lane"])
    assert (report.lost, report.loss) == ({}, "")


def test_what_is_journaled_is_not_lost_but_what_the_disk_damaged_is(tmp_path: Path) -> None:
    plan = hub(BufferStrategy.durable(tmp_path / "journal")).plan()
    outcome = report_outcome(plan, {"must": OutletStatistics(5, 0, 0, 7, 7, 0)})
    assert outcome == {"must": EmitterReport(5, 0, 0, 0, 7)}
    assert stop_report(plan, outcome, complete=False, seconds=1.0, silent=["lane"]).loss == ""
    damaged = report_outcome(plan, {"must": OutletStatistics(5, 0, 0, 0, 0, 0, unreadable=2)})
    report = stop_report(plan, damaged, complete=True, seconds=1.0)
    assert report.loss == "acknowledged events are lost: 2 of emitter must"
    assert "2 unreadable on disk" in str(report)


@pytest.mark.parametrize("vanished", [0, 4])
def test_what_was_in_a_buffer_that_died_is_lost_and_a_lane_that_says_nothing_may_be(vanished: int) -> None:
    emitters = {"must": EmitterReport(5, 0, 0, 0, vanished=vanished)}
    report = stop_report(hub().plan(), emitters, complete=True, seconds=1.0, silent=["lane-2/ingest"])
    unknown = "what lane-2/ingest held in memory is not known"
    lost = "acknowledged events are lost: 4 of emitter must; " if vanished else ""
    assert report.loss == lost + unknown


def test_a_drain_that_fails_says_so_before_its_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(lane: ChangingLane) -> None:
        raise LookupError("a group is gone")

    pipeline = hub().start()
    monkeypatch.setattr(ChangingLane, "drain_intake", fail)
    report = pipeline.stop()
    assert (report.complete, report.fault) == (False, "LookupError: a group is gone")
    early = "the drain ended early, so what was on its way is not counted (LookupError: a group is gone); "
    assert str(report).startswith(f"{early}must: 0 delivered")


def test_reports_of_lanes_add_up() -> None:
    total = add_up([EmitterReport(1, 2, 3, 4, 5, 6, 7), EmitterReport(10, 20, 30, 40, 50, 60, 70)])
    assert total == EmitterReport(11, 22, 33, 44, 55, 66, 77)
