"""Records that are read and sent many at a time become what they become one by one."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Message
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from polku import Event, Limits
from polku.batch.frames import split_frames
from polku.contracts import Pulled
from polku.event.v1.event_pb2 import Severity
from polku.gateway.admission import admit_events
from polku.gateway.block_admission import admit_block
from polku.gateway.pulled_stream import fill_in
from polku.kafka.client import UnfitError
from polku.kafka.columns import ColumnReader
from polku.kafka.encoding import LATEST
from polku.kafka.fields import Field
from polku.kafka.reading import Decode, Reader
from polku.kafka.record import Record, RecordMaker, Value
from polku.kafka.scanning import Scanner
from polku.kafka.template import compile_template
from polku.pull.block import PulledBlock
from polku.v1.gateway_pb2 import EventPayload
from tests.support.examples import examples

PLACE = ("orders", 3)
NOW = 1_700_000_000_000

times = st.one_of(
    st.tuples(st.sampled_from([1, 2]), st.integers(NOW, NOW + 3)),
    st.sampled_from([(1, 1), (1, LATEST), (2, 10**12), (1, 10**12 - 1)]),
)
odd_times = st.sampled_from([(0, -1), (1, 0), (1, -5), (1, LATEST + 1)])
keys = st.one_of(st.none(), st.sampled_from([b"", b"k", b"\xff", b"kafka.key"]), st.binary(max_size=300))
header = st.tuples(
    st.sampled_from(["traceparent", "tenant", "h", "é"]),
    st.one_of(st.none(), st.sampled_from([b"00-1", b"", b"\xfe"]), st.binary(max_size=200)),
)
headers = st.one_of(st.none(), st.lists(header, max_size=4))
metadata = st.dictionaries(
    st.sampled_from(["a", "traceparent", "tenant", "cluster", "kafka.key", "kafka.offset", "kafka.headers"]),
    st.text(max_size=5),
    max_size=4,
)
events = st.builds(
    Event,
    id=st.uuids().map(str),
    source=st.just("s"),
    timestamp_unix_ns=st.integers(1, 2**60),
    event_type=st.text(max_size=5),
    metadata=metadata,
    payload=st.one_of(st.binary(max_size=20), st.just(b"kafka. traceparent")),
    severity=st.sampled_from([Severity.SEVERITY_UNSPECIFIED, Severity.SEVERITY_INFO]),
)
values = st.one_of(st.none(), st.binary(max_size=200), st.just(b"x" * 5_000))


def messages(contents: st.SearchStrategy[bytes | None], when: Any = times) -> st.SearchStrategy[list[Message]]:
    record = st.tuples(contents, keys, headers, when)
    return st.tuples(st.integers(0, 11), st.lists(record, min_size=1, max_size=8)).map(lambda drawn: make(*drawn))


def make(first: int, records: list[tuple[Any, ...]]) -> list[Message]:
    return [
        Message(
            *(PLACE[0], PLACE[1], first + number),
            key=key,
            value=value,
            headers=pairs,
            timestamp=time,
        )
        for number, (value, key, pairs, time) in enumerate(records)
    ]


def encode(decode: Decode, read: list[Message], cluster: str, fields: Any = None) -> tuple[PulledBlock | None, Reader]:
    kept = fields if fields is not None else list(Field) if decode is Decode.RECORD else [Field.KEY]
    reader = Reader(decode, ["traceparent", "tenant"], kept, tombstones=decode is Decode.RECORD)
    encoder = reader.encoder(PLACE, "orders", cluster)
    assert encoder is not None
    return encoder.encode(read), reader


def one_by_one(records: list[Pulled], cluster: str) -> list[Event]:
    made = []
    for record in records:
        event = Event()
        if isinstance(record.content, Event):
            event.CopyFrom(record.content)
        else:
            assert isinstance(record.content, bytes)
            event.MergeFromString(record.content)
        fill_in(event, record, 0, 256)
        made.append(event)
    return list(admit_events(made, "orders", cluster, Limits()).batch.events)


def check(block: PulledBlock, reader: Reader, read: list[Message], cluster: str) -> None:
    records = [record for message in read if (record := reader.read(message)) is not None]
    expected = one_by_one(records, cluster)
    assert list(EventPayload.FromString(block.payload).events) == expected
    assert list(block.sizes) == list(map(len, split_frames(block.payload)))
    assert block.records() == records
    admission = admit_block(block, "orders", cluster, Limits())
    assert admission is not None
    assert admission.ids == [event.id for event in expected]
    assert admission.batch.events == expected


FIELDS = st.one_of(st.none(), st.lists(st.sampled_from(list(Field)), unique=True))


@given(messages(values), st.sampled_from(["", "eu"]), FIELDS)
def test_a_block_of_records_has_the_events_of_its_records(
    read: list[Message], cluster: str, fields: list[Field] | None
) -> None:
    block, reader = encode(Decode.RECORD, read, cluster, fields)
    assert block is not None
    check(block, reader, read, cluster)


@given(messages(events.map(Event.SerializeToString)), st.sampled_from(["", "eu"]), FIELDS)
def test_a_block_of_events_has_them_with_the_fields_of_their_records(
    read: list[Message], cluster: str, fields: list[Field] | None
) -> None:
    block, reader = encode(Decode.EVENT, read, cluster, fields)
    assert block is not None
    check(block, reader, read, cluster)


@given(messages(values, when=st.one_of(times, odd_times)))
def test_records_without_a_usual_time_are_read_one_by_one(read: list[Message]) -> None:
    block, _ = encode(Decode.RECORD, read, "")
    usual = all(kind and 0 < milliseconds <= LATEST for kind, milliseconds in (each.timestamp() for each in read))
    assert (block is not None) == usual


def test_offsets_that_begin_again_within_a_block_are_read_one_by_one() -> None:
    read = [Message(*PLACE, offset, value=b"v", timestamp=(1, NOW)) for offset in (8, 9, 10, 0, 1)]
    assert encode(Decode.RECORD, read, "")[0] is None


def event(**fields: Any) -> bytes:
    return Event(**{"id": "a", "source": "s", "timestamp_unix_ns": 1, **fields}).SerializeToString()


@pytest.mark.parametrize(
    "value",
    [
        event(id=""),
        event(source=""),
        event(timestamp_unix_ns=0),
        b"\xff",
        event() + b"\x32\x12ab",  # its payload is cut off, where the record's key would be in its place
        event() + b"\x2b",  # a group that does not end
        event(id="x" * 300),
        event(metadata={"k": "v" * 20_000}),
        event(payload=b"x" * 70_000),
    ],
)
def test_events_that_lack_something_or_break_a_limit_are_looked_at_one_by_one(value: bytes) -> None:
    read = make(0, [(value, b"k", None, (1, NOW)), (event(id="b"), b"k", None, (1, NOW))])
    block, _ = encode(Decode.EVENT, read, "")
    assert block is not None
    assert admit_block(block, "orders", "", Limits()) is None


def test_ids_that_stand_twice_and_records_without_a_value_are_looked_at_one_by_one() -> None:
    twice, _ = encode(Decode.EVENT, make(0, [(event(), None, None, (1, NOW))] * 2), "")
    assert twice is not None
    assert admit_block(twice, "orders", "", Limits()) is None
    without, _ = encode(Decode.EVENT, make(0, [(None, None, None, (1, NOW))]), "")
    assert without is None
    long, _ = encode(Decode.EVENT, make(0, [(event(), b"k" * 9_000, None, (1, NOW))]), "")
    assert long is None


@pytest.mark.parametrize(
    "limits",
    [
        Limits(id_bytes=9),
        Limits(event_type_bytes=10),
        Limits(metadata_entries=8),
        Limits(metadata_key_bytes=16),
        Limits(metadata_value_bytes=99),
        Limits(batch_events=1),
        Limits(message_bytes=400),
    ],
)
def test_records_over_a_limit_are_looked_at_one_by_one(limits: Limits) -> None:
    read = make(10, [(b"v", b"k" * 100, [("h", b"1")], (1, NOW))] * 2)
    block, _ = encode(Decode.RECORD, read, "")
    assert block is not None
    assert admit_block(block, "orders", "", Limits()) is not None
    assert admit_block(block, "orders", "", limits) is None


MAKERS = {
    topic: RecordMaker(compile_template("test", "topic", topic), None, Value.RECORD, (), fixed=fixed)
    for topic, fixed in (("copy", "copy"), ("{metadata[kafka.topic]}", ""))
}


def made(frame: bytes, topic: str, position: int) -> Record | None:
    """Return the record of an event as the parser reads it, None where it has none."""
    try:
        return MAKERS[topic].make(Event.FromString(frame), frame, position)
    except (DecodeError, UnfitError):
        return None


@given(messages(values), st.sampled_from(["", "eu"]), st.sampled_from(list(MAKERS)))
def test_a_scan_finds_the_records_that_a_parser_finds(read: list[Message], cluster: str, topic: str) -> None:
    block, _ = encode(Decode.RECORD, read, cluster)
    assert block is not None
    frames = split_frames(block.payload)
    found = Scanner("" if topic[0] == "{" else topic).scan(frames)
    for position, (frame, record, message) in enumerate(zip(frames, found, read, strict=True)):
        if message.timestamp()[1] >= 10**12:
            assert record is not None
        assert record is None or record == made(frame, topic, position)


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """Draw an event that is nearly one of a record."""
    block, _ = encode(Decode.RECORD, draw(messages(values)), draw(st.sampled_from(["", "eu"])))
    assert block is not None
    frames = split_frames(block.payload)
    frame = bytearray(draw(st.sampled_from(frames)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(frame) - 1))
        length = draw(st.integers(0, 40))
        match draw(st.integers(0, 4)):
            case 0:
                frame[at] = draw(st.integers(0, 255))
            case 1:
                del frame[at : at + length]
            case 2:
                frame[at:at] = frame[:length]
            case 3:
                frame += draw(st.sampled_from(frames))
            case _:
                frame[at:at] = draw(metadata.map(lambda each: Event(metadata=each).SerializeToString()))
        frame = frame or bytearray(b"\x0a\x00")
    return bytes(frame)


@examples(300, slow=1_000)
@given(st.lists(st.one_of(nearly(), events.map(Event.SerializeToString)), max_size=4), st.sampled_from(list(MAKERS)))
def test_a_scan_of_anything_else_finds_nothing_or_what_a_parser_finds(frames: list[bytes], topic: str) -> None:
    found = Scanner("" if topic[0] == "{" else topic).scan(frames)
    for position, (frame, record) in enumerate(zip(frames, found, strict=True)):
        try:
            Event.FromString(frame)
        except DecodeError:
            continue
        assert record is None or record == made(frame, topic, position)


@given(messages(values), st.sampled_from(["", "eu"]), st.sampled_from(list(MAKERS)), st.integers(0, 5))
def test_columns_have_the_records_that_a_parser_finds(
    read: list[Message], cluster: str, topic: str, start: int
) -> None:
    block, _ = encode(Decode.RECORD, read, cluster)
    assert block is not None
    frames = split_frames(block.payload)
    columns = ColumnReader("" if topic[0] == "{" else topic).read(frames, start)
    if columns is not None:
        expected = [made(frame, topic, start + position) for position, frame in enumerate(frames)]
        assert list(columns) == expected
        assert list(columns[1:]) == expected[1:]
        assert [row[1:5] + row[6:] for row in columns.rows()] == [tuple(e)[1:5] + tuple(e)[6:] for e in expected if e]


def alike(number: int, **more: Any) -> Message:
    options = {"key": b"k%d" % (number % 3), "value": b"x" * number, "headers": [("h", b"%d" % number)]} | more
    return Message(*PLACE, 7 + number, timestamp=(1, NOW + number), **options)


@pytest.mark.parametrize("more", [{}, {"key": None}, {"headers": None}, {"key": b"\xc3\xa9" * 90}])
def test_records_that_have_the_same_fields_are_read_in_columns(more: dict[str, Any]) -> None:
    block, _ = encode(Decode.RECORD, [alike(number, **more) for number in range(300)], "")
    assert block is not None
    assert ColumnReader("").read(split_frames(block.payload), 0) is not None


@pytest.mark.parametrize("more", [{"key": b"\xff"}, {"value": None}, {"headers": None}])
def test_records_of_which_one_has_other_fields_are_not(more: dict[str, Any]) -> None:
    block, _ = encode(Decode.RECORD, [alike(1), alike(2, **more), alike(3)], "")
    assert block is not None
    assert ColumnReader("").read(split_frames(block.payload), 0) is None


@examples(300, slow=1_000)
@given(
    st.lists(st.one_of(nearly(), events.map(Event.SerializeToString)), min_size=1, max_size=4),
    st.sampled_from(list(MAKERS)),
)
def test_columns_of_anything_else_are_none_or_what_a_parser_finds(frames: list[bytes], topic: str) -> None:
    columns = ColumnReader("" if topic[0] == "{" else topic).read(frames, 0)
    if columns is None:
        return
    for position, (frame, row) in enumerate(zip(frames, columns.rows(), strict=True)):
        try:
            Event.FromString(frame)
        except DecodeError:
            continue
        record = made(frame, topic, position)
        assert record is not None
        assert row[1:5] + row[6:] == tuple(record)[1:5] + tuple(record)[6:]
