"""The watchdog: no progress although there is a backlog is an illness, and its sentence says where and why."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from polku.batch.receipt import Receipt
from polku.buffer.statistics import BufferStatistics, OutletStatistics
from polku.emit.delivery import CollectionStatistics, DeliveryStatistics
from polku.gateway.intake_statistics import IntakeStatistics
from polku.runtime import watch
from polku.runtime.watch import Progress, Watch


def test_a_part_is_stalled_from_when_it_first_had_a_backlog_and_moved_nothing_of_it() -> None:
    progress = Progress()
    assert progress.stalled("a", backlog=0, done=7, now=100.0) == 0
    assert progress.stalled("a", backlog=5, done=7, now=900.0) == 0  # idle before: the backlog is new
    assert progress.stalled("a", backlog=5, done=7, now=910.0) == 10
    assert progress.stalled("b", backlog=5, done=7, now=910.0) == 0
    assert progress.stalled("a", backlog=9, done=7, now=930.0) == 30
    assert progress.stalled("a", backlog=8, done=8, now=940.0) == 0
    assert progress.stalled("a", backlog=8, done=8, now=941.0) == 1
    assert progress.stalled("a", backlog=0, done=8, now=990.0) == 0


def outlet(lag: int, confirmed: int) -> OutletStatistics:
    return OutletStatistics(confirmed, 0, 0, lag, lag * 100, min(lag, 2))


def judge(progress: Progress, lag: int, confirmed: int, unanswered: int) -> dict[str, tuple[bool, str]]:
    look = Watch(progress)
    look.add_ingest(IntakeStatistics(9, 9, confirmed, 0, unanswered, Receipt()))
    outlets = {"slow": outlet(lag, confirmed), "fine": outlet(0, 500)}
    look.add_buffer(BufferStatistics(lag, lag * 100, 10_000, 500, 0, 0, 0, outlets))
    look.add_delivery("slow", DeliveryStatistics(confirmed, 0, 3, 1, None))
    look.add_delivery("fine", DeliveryStatistics(500, 0, 3, 0, None))
    return dict(look.health(0).components)


def test_health_turns_bad_naming_who_since_when_and_why_and_good_again(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    assert all(healthy for healthy, _ in judge(progress, 300, 10, 4).values())
    monkeypatch.setattr(watch, "PATIENCE", 0.0)
    found = judge(progress, 300, 10, 4)
    assert found["emitter:slow"] == (False, "no progress for 0 s with 300 events waiting: 1 calls to it are open")
    assert found["ingest"] == (False, "no answer for 0 s to 4 messages: what comes after it takes nothing")
    assert found["emitter:fine"] == (True, "ok")
    assert all(healthy for healthy, _ in judge(progress, 200, 110, 4).values())
    assert all(healthy for healthy, _ in judge(progress, 0, 310, 0).values())


def test_what_stands_still_for_long_is_told_in_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    judge(progress, 300, 10, 4)
    later = time.monotonic() + 596
    monkeypatch.setattr("polku.runtime.watch.time.monotonic", lambda: later)
    found = judge(progress, 300, 10, 4)
    assert found["emitter:slow"][1].startswith("no progress for 9 min 56 s with 300 events waiting: ")
    assert found["ingest"][1].startswith("no answer for 9 min 56 s to 4 messages: ")


def test_an_emitter_that_cannot_start_or_be_reached_is_unhealthy_by_its_reason() -> None:
    look = Watch()
    unreachable = replace(outlet(300, 10), fault="MemoryError: no room")
    look.add_buffer(BufferStatistics(300, 300, 10_000, 500, 0, 0, 0, {"far": unreachable, "db": outlet(9, 0)}))
    look.add_delivery("far", DeliveryStatistics(10, 0, 3, 1, None))
    look.add_delivery("db", DeliveryStatistics(0, 0, 0, 0, None, fault="cannot start: ConnectionError: down"))
    health = look.health(0)
    assert not health.healthy
    assert health.components["emitter:far"] == (
        False,
        "300 events are held, pushing them fails: MemoryError: no room",
    )
    assert health.components["emitter:db"] == (False, "cannot start: ConnectionError: down")


def test_collecting_for_as_long_as_it_may_is_no_illness(monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(idle: float, max_age: float) -> bool:
        look = Watch()
        monkeypatch.setattr(look._progress, "stalled", lambda *_: idle)
        outlets = {"store": outlet(300, 10)}
        look.add_ingest(IntakeStatistics(9, 9, 5, 0, 4, Receipt()))
        look.add_buffer(BufferStatistics(300, 300, 10_000, 500, 0, 0, 0, outlets))
        held = CollectionStatistics(1, 300, 300, 0, max_age)
        look.add_delivery("store", DeliveryStatistics(10, 0, 3, 0, None, held))
        found = look.health(0).components
        assert found["ingest"][0] == found["emitter:store"][0]
        return not look.health(0).healthy

    assert complaint(idle=31, max_age=0.5)
    assert not complaint(idle=60, max_age=60)
    assert complaint(idle=91, max_age=60)
