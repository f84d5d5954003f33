"""Cheap readings of wire messages say what protobuf says, also of messages that nobody writes on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from polku import Event
from polku.batch.frames import (
    _read_whole,
    count_events,
    has_more_fields,
    join_with_field,
    may_have_entry,
    read_envelope,
    read_frames,
)
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent, RawPayload

TEXTS = st.sampled_from(["", "a", "b" * 127, "b" * 128, "ä"])
EVENTS = st.lists(st.builds(Event, id=TEXTS), max_size=3).map(lambda events: EventPayload(events=events))
RAW = st.builds(RawPayload, data=st.binary(max_size=3), format=TEXTS)
PARTS = st.lists(
    st.one_of(
        st.builds(IngestBatch, source=TEXTS, cluster=TEXTS),
        st.builds(IngestBatch, events=EVENTS),
        st.builds(IngestBatch, raw=RAW),
    ).map(lambda message: message.SerializeToString())
    | st.sampled_from([b"\x20\x07", b"\x7a\x02hi"]),  # field 4 as a number, and field 15: nothing that we know
    max_size=6,
)

ODD = b"\x00\x01\x0a\x12\x1a\x22\x7f\x80\xff"


@given(PARTS)
def test_an_envelope_of_fields_that_stand_several_times_is_read_as_protobuf_merges_them(parts: list[bytes]) -> None:
    wire = b"".join(parts)
    merged, envelope = IngestBatch.FromString(wire), read_envelope(wire)
    assert (envelope.source, envelope.cluster) == (merged.source, merged.cluster)
    assert envelope.which == (merged.WhichOneof("payload") or "")
    if envelope.which == "events":
        assert EventPayload.FromString(envelope.content) == merged.events
    if envelope.which == "raw":
        assert RawPayload.FromString(envelope.content) == merged.raw


@given(
    PARTS, st.lists(st.tuples(st.integers(0, 40), st.sampled_from(b"\x00\x01\x0a\x12\x1a\x22\x7f\x80\xff")), max_size=3)
)
def test_an_envelope_that_was_damaged_is_read_or_refused_as_by_protobuf(
    parts: list[bytes], changes: list[tuple[int, int]]
) -> None:
    wire = bytearray(b"".join(parts))
    for place, value in changes:
        if place < len(wire):
            wire[place] = value
    assert _outcome(read_envelope, bytes(wire)) == _outcome(_read_whole, bytes(wire))


def _outcome(read: Callable[[bytes], object], wire: bytes) -> object:
    try:
        return read(wire)
    except DecodeError as error:
        return str(error)


@pytest.mark.parametrize("field", [b"\x78\x00", b"\x22\x00", b"\x1a\x00", b"\x7b\x7c", b"\x7d\x00\x00\x00\x00"])
def test_a_message_of_very_many_fields_is_refused_before_they_are_listed(field: bytes) -> None:
    assert read_envelope(field * 4_000 + b"\x0a\x01s").source == "s"
    with pytest.raises(DecodeError, match="more than 10000 fields"):
        read_envelope(field * 10_001)


@given(st.lists(EVENTS, max_size=3), st.booleans())
def test_the_events_of_a_request_are_counted_as_they_are_decoded(parts: list[EventPayload], alone: bool) -> None:
    wire = b"".join(IngestEvent(source="s", events=part).SerializeToString() for part in parts)
    wire += b"" if alone else b"\x7a\x02hi"
    assert count_events(wire) == len(IngestEvent.FromString(wire).events.events)


@given(st.lists(EVENTS, max_size=6), st.integers(0, 8))
def test_fields_are_counted_up_to_a_bound(payloads: list[EventPayload], most: int) -> None:
    events = [event for payload in payloads for event in payload.events]
    wire = EventPayload(events=events).SerializeToString()
    assert has_more_fields(wire, most) == (len(events) > most)


@given(PARTS, st.integers(0, 8))
def test_fields_of_all_kinds_are_counted(parts: list[bytes], most: int) -> None:
    wire = b"".join(parts)
    count = len(UnknownFieldSet(empty_pb2.Empty.FromString(wire)))
    assert has_more_fields(wire, most) == (count > most)


@given(st.lists(st.builds(Event, id=TEXTS, payload=st.sampled_from([b"", b"x" * 20_000])), max_size=4), TEXTS)
def test_a_field_behind_each_event_is_one_of_each_event(events: list[Event], cluster: str) -> None:
    frames = list(read_frames(EventPayload(events=events).SerializeToString()))
    joined = join_with_field(frames, Event(metadata={"cluster": cluster}).SerializeToString())
    for event in events:
        event.metadata["cluster"] = cluster
    assert list(EventPayload.FromString(joined).events) == events


@pytest.mark.parametrize("filling", [b"x", b"\x07c", b"\x87\x00", b"\x07"])
@pytest.mark.parametrize("size", [10, 1_000, 40_000])
@given(place=st.integers(0, 3), has_one=st.booleans())
def test_an_entry_is_found_wherever_it_stands_and_none_elsewhere(
    filling: bytes, size: int, place: int, has_one: bool
) -> None:
    events = [Event(id=f"e-{number}", payload=filling * (size // len(filling))) for number in range(4)]
    if has_one:
        events[place].metadata["cluster"] = "prod"
    assert may_have_entry(EventPayload(events=events).SerializeToString(), b"cluster") is has_one


def test_an_entry_with_a_longer_length_than_it_takes_is_found() -> None:
    entry = b"\x0a\x87\x00cluster\x12\x04prod"
    event = bytes([Event.DESCRIPTOR.fields_by_name["metadata"].number << 3 | 2]) + bytes([len(entry)]) + entry
    assert Event.FromString(event).metadata == {"cluster": "prod"}
    for payload in (b"", b"x" * 40_000):
        whole = (
            EventPayload(events=[Event(payload=payload)]).SerializeToString() + b"\x0a" + bytes([len(event)]) + event
        )
        assert may_have_entry(whole, b"cluster")
