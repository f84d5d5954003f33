"""The oracle finds every kind of broken promise, and nothing where all were kept."""

from __future__ import annotations

import pytest

from polku import Event
from polku.testing import Oracle


def fed(count: int = 10) -> tuple[Oracle, list[Event]]:
    oracle = Oracle(["a", "b"], seed=5)
    events = oracle.events("s", count)
    oracle.acknowledged(event.id for event in events)
    return oracle, events


def test_where_everything_arrived_nothing_is_wrong() -> None:
    oracle, events = fed()
    for emitter in ("a", "b"):
        oracle.delivered(emitter, events)
    verdict = oracle.verdict()
    verdict.check(duplicates=False)
    assert (verdict.sent, verdict.acknowledged, verdict.delivered) == (10, 10, 20)


def test_what_was_acknowledged_and_did_not_arrive_is_lost_unless_it_is_excused() -> None:
    oracle, events = fed()
    oracle.delivered("a", events)
    oracle.delivered("b", events[:7])
    with pytest.raises(AssertionError, match=r"3 lost of 10 acknowledged.*never arrived at b"):
        oracle.verdict().check()
    oracle.dead("b", [event.id for event in events[7:]])
    oracle.verdict().check()


def test_what_was_sent_and_not_acknowledged_may_be_missing() -> None:
    oracle, events = fed()
    oracle.events("s", 5)
    for emitter in ("a", "b"):
        oracle.delivered(emitter, events)
    oracle.verdict().check()


def test_repetitions_are_counted_and_forbidden_only_where_asked() -> None:
    oracle, events = fed()
    for emitter in ("a", "b", "a"):
        oracle.delivered(emitter, events)
    oracle.verdict().check()
    with pytest.raises(AssertionError, match="10 duplicates"):
        oracle.verdict().check(duplicates=False)


def test_order_is_that_of_first_arrivals() -> None:
    oracle, events = fed()
    oracle.delivered("a", [*events[:5], *events[2:]])  # a repetition goes back; no first arrival does
    oracle.delivered("b", [*events[5:], *events[:5]])
    with pytest.raises(AssertionError, match="5 reordered"):
        oracle.verdict().check()
    oracle.verdict().check(order=False)


def test_order_is_not_asked_for_where_it_was_waived_or_never_promised() -> None:
    oracle, events = fed()
    oracle.waive_order(event.id for event in events[:5])
    loose = Oracle(["a"], ordered=[], seed=5)
    others = loose.events("s", 2)
    loose.delivered("a", reversed(others))
    loose.verdict().check()
    for emitter in ("a", "b"):
        oracle.delivered(emitter, [*events[5:], *events[:5]])
    oracle.verdict().check()


def test_what_was_never_sent_or_arrives_changed_is_found() -> None:
    oracle, events = fed()
    for emitter in ("a", "b"):
        oracle.delivered(emitter, events[:9])
    changed = Event()
    changed.CopyFrom(events[9])
    changed.payload = b"other"
    oracle.delivered("a", [changed])
    oracle.delivered("b", [events[9], Event(id="who"), Event(id=events[0].id.replace(":0", ":77"))])
    verdict = oracle.verdict()
    assert (verdict.lost, verdict.corrupted, verdict.invented) == (0, 1, 2)
    with pytest.raises(AssertionError, match="2 invented, 1 corrupted"):
        verdict.check()
