import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polku.batch.frames import join_frames
from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest import PassthroughIngestor
from polku.v1.gateway_pb2 import EventPayload
from tests.ingest.strategies import EVENTS
from tests.support.examples import examples


def ingest(data: bytes, format: str = "") -> list[Event | RecordError]:
    return list(PassthroughIngestor().ingest(data, IngestContext("polku", "", format)))


def same(results: list[Event | RecordError], *expected: Event) -> bool:
    given_bytes = [r.SerializeToString(deterministic=True) for r in results if isinstance(r, Event)]
    wanted = [event.SerializeToString(deterministic=True) for event in expected]
    return given_bytes == wanted and len(results) == len(expected)


named = EVENTS.filter(lambda event: bool(event.id and event.event_type))


@examples(60)
@given(named)
def test_an_event_with_an_id_and_a_type_is_recognised(event: Event) -> None:
    assert same(ingest(event.SerializeToString()), event)
    assert same(ingest(event.SerializeToString(), "protobuf"), event)


@examples(60)
@given(st.lists(named, min_size=1, max_size=3))
def test_a_payload_of_such_events_is_recognised(events: list[Event]) -> None:
    assert same(ingest(EventPayload(events=events).SerializeToString()), *events)


@examples(100)
@given(EVENTS.filter(lambda event: event.ByteSize() > 0))
def test_the_hints_decide_for_any_event(event: Event) -> None:
    assert same(ingest(event.SerializeToString(), "event"), event)
    assert same(ingest(EventPayload(events=[event]).SerializeToString(), "payload"), event)


@pytest.mark.parametrize("event_id", ["evt-001", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "P1", "X5", "2a", "id with spaces", "ä"])
def test_an_event_with_nothing_but_an_id_is_an_event(event_id: str) -> None:
    event = Event(id=event_id)
    assert same(ingest(event.SerializeToString()), event)
    assert same(ingest(EventPayload(events=[event]).SerializeToString()), event)


def test_events_of_a_newer_schema_are_recognised() -> None:
    newer = Event(id="a", event_type="t").SerializeToString() + b"\xf2\x06\x03new"  # field 110
    (event,) = ingest(join_frames([newer]))
    assert isinstance(event, Event)
    assert event.id == "a"
    assert isinstance(ingest(newer)[0], Event)


def test_a_malformed_event_of_a_payload_is_one_error_with_its_offset() -> None:
    good = [Event(id=i, event_type="t") for i in "ab"]
    bad = b"\x0a\x05xx"
    data = join_frames([good[0].SerializeToString(), bad, good[1].SerializeToString()])
    first, error, last = ingest(data)
    assert same([first, last], *good)
    assert isinstance(error, RecordError)
    assert (error.code, error.offset) == (Code.MALFORMED, data.index(bad))
    assert "events[1]: not a valid Event" in str(error)


@pytest.mark.parametrize("data", [b"", b'{"id": "a"}', b"hello world", b"\xff\xff\xff", b"\x0a\xff"])
@pytest.mark.parametrize("format", ["", "event"])
def test_bytes_of_another_format_are_malformed(data: bytes, format: str) -> None:
    (error,) = ingest(data, format)
    assert isinstance(error, RecordError)
    assert error.code is Code.MALFORMED
    assert "valid Event" in str(error) or "none of its fields is known" in str(error)


def test_an_empty_payload_that_says_so_is_no_events() -> None:
    assert ingest(b"", "payload") == []


@examples(400)
@given(st.binary(max_size=100), st.sampled_from(["", "event", "payload", "x"]))
@example(b"\x0a\x02\x0a\xff\x0a\x02\x0a\xff", "")
@example(b"\x0a\x00", "")
@example(b"\x0a\x00\x0a\x00", "payload")
def test_no_bytes_make_it_raise(data: bytes, format: str) -> None:
    for result in ingest(data, format):
        assert isinstance(result, (Event, RecordError))
        assert not isinstance(result, RecordError) or result.code is Code.MALFORMED
