"""The two lines of back-pressure: when it begins, and when it ends."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from msgspec.structs import replace

from polku import Batch, BufferStrategy, Hub, new_event
from polku.batch.receipt import Counts
from polku.buffer.statistics import BufferStatistics, OutletStatistics
from polku.buffer.strategy import Overflow
from polku.emit.delivery import DeliveryStatistics
from polku.log import RepeatedLog
from polku.runtime import back_pressure, inline
from polku.runtime.back_pressure import BackPressure
from polku.runtime.watch import Watch
from polku.stage.statistics import StageStatistics

WHY = {"emitter:a": "its share of the buffer is full (10 events wait): away"}


def lines(looks: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what is logged of looks once a second, in each of which `x` holds up others."""
    caplog.clear()
    pressure = BackPressure(RepeatedLog(logging.getLogger("polku.test")))
    with caplog.at_level(logging.INFO, "polku.test"):
        for second, sign in enumerate(looks):
            pressure.look(WHY if sign == "x" else {}, float(second))
    return [record.getMessage() for record in caplog.records]


def test_one_line_says_that_it_begins_and_one_that_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    begins = "back-pressure: emitter:a holds up what comes in: its share of the buffer is full (10 events wait): away"
    ends = "back-pressure: emitter:a held up what comes in for {} s; it is over"
    assert lines("x", caplog) == []
    assert lines("x.x.x.", caplog) == []
    assert lines("xx", caplog) == lines("xxxxxxxxxx", caplog) == [begins]
    assert lines("xxxx....", caplog) == [begins]
    assert lines("xxxx.....", caplog) == [begins, ends.format(3)]
    assert lines("xxx....xxx.....", caplog) == [begins, ends.format(9)]


def test_where_nothing_moves_any_more_it_is_said_sooner(caplog: pytest.LogCaptureFixture) -> None:
    for is_ready, count in ((True, 0), (False, 1)):
        caplog.clear()
        pressure = BackPressure(RepeatedLog(logging.getLogger("polku.test")))
        with caplog.at_level(logging.INFO, "polku.test"):
            for now in (0.0, 0.3):
                pressure.look(WHY, now, is_ready=is_ready)
        assert len(caplog.records) == count


def test_one_that_comes_and_goes_is_not_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    assert len(lines("xxx....." * 5, caplog)) == 2


def test_the_watch_says_who_holds_up_others_and_why() -> None:
    look = Watch()
    look.lane = "lane-1/"
    stage = StageStatistics(1, 1, 0, 0, 0, Counts(), step="slow", since=time.monotonic() - 7.2)
    look.add_stage("stage-1", stage)
    look.add_stage("stage-2", replace(stage, since=time.monotonic()))
    outlets = {name: OutletStatistics(0, 0, 0, 10, 1000, 2, is_full=True) for name in ("a", "audit", "b")}
    outlets["new"] = replace(outlets["b"], overflow=Overflow.DROP_NEWEST, dropped=3)
    look.add_buffer(BufferStatistics(10, 1000, 10, 10, 0, 0, 0, outlets, refuses=("a", "b", "new")))
    look.add_delivery("a", DeliveryStatistics(0, 0, 3, 1, None, fault="away"))
    look.add_absent("emitter:b", "has not answered for 9 s")
    look.add_delivery("audit", DeliveryStatistics(0, 0, 3, 1, None, fault="away"))
    assert look.holds == {
        "lane-1/stage-1": "slow has been busy with one batch for 7 s",
        "lane-1/emitter:a": "its share of the buffer is full (10 events wait): away",
        "lane-1/emitter:b": "its share of the buffer is full (10 events wait): has not answered for 9 s",
    }
    assert look.health(0).drops == {"lane-1/emitter:new": ("drop_newest", 3)}


def test_a_pipeline_names_the_emitter_that_holds_it_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(back_pressure, "_BEGIN_SECONDS", 0.0)
    monkeypatch.setattr(back_pressure, "_END_SECONDS", 0.0)
    release = threading.Event()

    def partner(batch: Batch) -> None:
        release.wait(60)

    def until_said(text: str) -> None:
        limit = time.monotonic() + 30
        while not any(text in record.getMessage() for record in caplog.records):
            assert time.monotonic() < limit
            time.sleep(0.01)

    with Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2)).emitter(partner).start() as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(2)])
        until_said("emitter:partner holds up what comes in: its share of the buffer is full (2 events wait)")
        release.set()
        until_said("emitter:partner held up what comes in for 0 s; it is over")
