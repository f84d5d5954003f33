"""Events whose typed data holds an impossible time are refused at the door, alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson

from polku import Code, Event, Limits, new_event
from polku.batch.frames import has_timed_data
from polku.gateway.admission import Admission, admit_event, admit_events, admit_payload
from polku.gateway.times import FIRST, LAST, may_have_times, time_fault
from polku.v1.gateway_pb2 import EventPayload

BAD = [(FIRST - 1, 0, "seconds"), (LAST + 1, 0, "seconds"), (1_700_000_000_000, 0, "seconds")]
BAD += [(0, -1, "nanos"), (0, 1_000_000_000, "nanos")]
GOOD = [(FIRST, 0), (LAST, 999_999_999), (0, 0)]


def paths(descriptor: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Find every Timestamp below a message."""
    for field in descriptor.fields:
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.message_type.full_name == "google.protobuf.Timestamp":
            yield (*before, field.name)
        else:
            yield from paths(field.message_type, (*before, field.name))


TIMES = list(paths(Event.DESCRIPTOR))


def event(path: tuple[str, ...], seconds: int, nanos: int) -> Event:
    made = new_event("x", id="bad", source="s")
    field: Any = made
    for name in path:
        field = getattr(field, name)
    field.seconds, field.nanos = seconds, nanos
    field.SetInParent()
    return made


def test_all_times_of_an_event_are_known() -> None:
    assert set(TIMES) == {("container", "start_time"), ("process", "start_time"), ("process", "end_time")}


def test_what_is_read_again_is_all_typed_data_that_has_times() -> None:
    timed = {path[0] for path in TIMES}
    for field in Event.DESCRIPTOR.oneofs_by_name["data"].fields:
        given = new_event("x", source="s")
        getattr(given, field.name).SetInParent()
        getattr(given, field.name).MergeFromString(b"\x7a\x01x")  # some field, so that it is not empty
        assert has_timed_data(EventPayload(events=[given]).SerializeToString()) == (field.name in timed)


def test_the_bounds_are_those_of_years_1_to_9999() -> None:
    assert datetime(1, 1, 1, tzinfo=UTC).timestamp() == FIRST
    assert datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() == LAST


def by_payload(given: list[Event]) -> Admission:
    return admit_payload(EventPayload(events=given).SerializeToString(), "s", "", Limits())


def by_list(given: list[Event]) -> Admission:
    return admit_events(given, "s", "", Limits(), size=sum(map(Event.ByteSize, given)))


WAYS = pytest.mark.parametrize("admit", [by_payload, by_list, lambda given: admit_events(given, "s", "", Limits())])


@WAYS
@pytest.mark.parametrize("path", TIMES)
@pytest.mark.parametrize(("seconds", "nanos", "field"), BAD)
def test_an_impossible_time_is_refused_alone_by_its_name(
    admit: Callable[[list[Event]], Admission], path: tuple[str, ...], seconds: int, nanos: int, field: str
) -> None:
    given = [new_event("x", id="a", source="s"), event(path, seconds, nanos), new_event("x", id="b", source="s")]
    admission = admit(given)
    assert admission.ids == admission.batch.ids == ["a", "b"]
    (refusal,) = admission.refused
    assert (refusal.event_id, refusal.code) == ("bad", Code.INVALID_EVENT)
    value = seconds if field == "seconds" else nanos
    assert refusal.message.startswith(f"events[1].{'.'.join(path)}.{field}={value}: must be from ")


@pytest.mark.parametrize(("seconds", "nanos", "field"), BAD)
def test_so_it_is_where_it_comes_alone(seconds: int, nanos: int, field: str) -> None:
    given = event(TIMES[0], seconds, nanos)
    (refusal,) = admit_event(given, "s", "", Limits(), given.ByteSize()).refused
    assert refusal.code == Code.INVALID_EVENT
    assert field in refusal.message


@WAYS
@pytest.mark.parametrize("path", TIMES)
@pytest.mark.parametrize(("seconds", "nanos"), GOOD)
def test_what_is_a_time_is_taken_and_can_be_written(
    admit: Callable[[list[Event]], Admission], path: tuple[str, ...], seconds: int, nanos: int
) -> None:
    admission = admit([event(path, seconds, nanos)])
    assert admission.refused == []
    assert MessageToJson(admission.batch.events[0])


def test_a_tag_that_is_longer_than_it_has_to_be_hides_nothing() -> None:
    given = event(("process", "start_time"), LAST + 1, 0)
    frame = given.SerializeToString().replace(b"\xc2\x01", b"\xc2\x81\x00", 1)
    assert Event.FromString(frame) == given
    payload = b"\x0a" + bytes([len(frame)]) + frame
    assert [r.code for r in admit_payload(payload, "s", "", Limits()).refused] == [Code.INVALID_EVENT]


@pytest.mark.parametrize("payload", [b'{"a": 10}', "£ 10, 1 °C".encode(), bytes(range(256)), b"\xc2\xb2" * 100])
def test_payloads_of_plain_events_have_no_times(payload: bytes) -> None:
    plain = [new_event("user.login", source="agent", payload=payload) for _ in range(100)]
    assert not may_have_times(EventPayload(events=plain).SerializeToString(), plain)
    assert time_fault(plain[0]) == ""
    for place in (0, 50, 100):
        events = [*plain[:place], event(TIMES[0], 1, 0), *plain[place:]]
        assert may_have_times(EventPayload(events=events).SerializeToString(), events)


@WAYS
def test_of_events_with_one_id_the_first_counts_also_where_it_is_refused(
    admit: Callable[[list[Event]], Admission],
) -> None:
    admission = admit([event(TIMES[0], LAST + 1, 0), new_event("x", id="bad", source="s")])
    assert admission.ids == []
    assert [(r.event_id, r.code) for r in admission.refused] == [
        ("bad", Code.INVALID_EVENT),
        ("bad", Code.DUPLICATE_ID),
    ]


class Unasked(list[Event]):
    """Events that nobody may look at."""

    def __iter__(self) -> Iterator[Event]:
        raise AssertionError("an event is asked for its data")


@pytest.mark.parametrize("upper", [b"\xb2", b"\xc2"])
def test_a_byte_of_a_timestamp_that_looks_like_the_first_of_a_tag_costs_no_look_at_each_event(upper: bytes) -> None:
    times = [(1_791_000_000 << 30 & ~(127 << 49) | (upper[0] & 127) << 49) + number for number in range(1_000)]
    plain = [Event(id=str(time), timestamp_unix_ns=time, source="s", event_type="x") for time in times]
    payload = EventPayload(events=plain).SerializeToString()
    assert payload.count(upper) >= 1_000
    assert not may_have_times(payload, Unasked(plain))
