"""Reading and writing records without decoding them, held against doing the same with the generated messages."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from polku import Batch, Event
from polku.otlp.additions import is_attribute, with_attributes
from polku.otlp.attributes import find, key_of, short_entry, short_text, write
from polku.otlp.columns import ColumnWriter
from polku.otlp.grouping import group
from polku.otlp.metric_columns import MetricColumnWriter
from polku.otlp.projection import seal_attributes
from polku.otlp.reading import Choice, Transcoded, transcode
from polku.otlp.signals import LOGS, METRICS, TRACES, Signal
from polku.otlp.wire import Scope, TimeWriter, Unwrapper, Wrapper, join, split, tagged
from polku.otlp.writing import RecordWriter
from polku.v1.gateway_pb2 import EventPayload
from tests.otlp.drawn import (
    CHOICES,
    KEYS,
    KINDS,
    LIMITS,
    POINTS,
    SIGNALS,
    TEXTS,
    TIME,
    attribute_bytes,
    expected,
    metric_bytes,
    metric_of,
    record_bytes,
    transcoded,
)
from tests.support.examples import examples


@examples(60)
@given(st.data())
def test_records_are_read_as_if_they_were_decoded(data: st.DataObject) -> None:
    signal, choice = data.draw(SIGNALS), data.draw(CHOICES)
    records = data.draw(st.lists(record_bytes(signal), min_size=1, max_size=6))
    done = transcoded(signal, records, choice)
    events = list(EventPayload.FromString(done.payload).events)
    wanted, ids = [], set()
    for record in records:
        event = expected(signal, record, choice)
        if event is not None and (not event.id or event.id not in ids):
            wanted.append(event)
            ids.add(event.id)
    assert len(events) == len(wanted)
    assert len(done.dead) == len(records) - len(wanted)
    for event, right in zip(events, wanted, strict=True):
        right.id = right.id or event.id
        right.timestamp_unix_ns = right.timestamp_unix_ns or event.timestamp_unix_ns
        assert event == right


@examples(60)
@given(st.data())
def test_what_a_step_adds_is_added_as_if_records_were_decoded(data: st.DataObject) -> None:
    signal, choice = data.draw(SIGNALS), data.draw(CHOICES)
    records = data.draw(st.lists(record_bytes(signal), min_size=1, max_size=4))
    done = transcoded(signal, records, choice)
    events = list(EventPayload.FromString(done.payload).events)
    for event in events:
        event.metadata.update(data.draw(st.dictionaries(KEYS.filter(bool), TEXTS, max_size=3)))
    sealed = Batch(payload=Batch.from_events(events).payload, count=len(events))
    requests, failures = group(sealed, 1_000, 10**9)
    assert not failures
    assert [position for request in requests for position in request.positions] == list(range(len(events)))
    others, _ = group(Batch.from_events(list(sealed.events)), 1_000, 10**9)
    assert [request.ids for request in requests] == [request.ids for request in others]
    assert [request.body for request in requests] == [request.body for request in others]
    found = [content for request in requests for content in request.records.contents]
    unwrapper = Unwrapper()
    for event, content in zip(sealed.events, found, strict=True):
        metadata = {key: value for key, value in event.metadata.items() if is_attribute(key)}
        right = with_attributes(signal, unwrapper.unwrap(event.payload)[1], metadata, {})
        if content != right:
            assert KINDS[signal].FromString(content) == KINDS[signal].FromString(right)


def test_a_key_that_a_record_has_several_times_is_nothing_that_a_step_has_added() -> None:
    texts = ["", "", "x" * 20_000]  # the last one is too long for an entry of metadata
    record = LogRecord(attributes=[KeyValue(key="a", value=AnyValue(string_value=text)) for text in texts])
    content = record.SerializeToString()
    assert with_attributes(LOGS, content, {"a": ""}, {}) == content
    assert with_attributes(LOGS, content, {"a": "new"}, {}) != content


@given(attribute_bytes())
@example(write("a", "v" * 125))
@example(write("a", "v" * 124))
@example(b"\x0a\x01a\x12\x00")
@example(b"\x0a\x01a\x12\x02\x0a\x00")
def test_an_attribute_that_is_read_undecoded_is_what_it_says(content: bytes) -> None:
    key = key_of(content)
    if key is None:
        return
    try:
        one = KeyValue.FromString(content)
    except DecodeError:
        return  # the whole record is refused
    assert one.key.encode() == key
    text = short_text(content, len(key))
    if text is not None:
        assert one.value.string_value.encode() == text
        assert dict(Event.FromString(short_entry(content, len(key))).metadata) == {one.key: text.decode()}
        assert find([content], one.key) == text.decode()


def test_of_a_key_that_stands_twice_the_last_one_counts() -> None:
    assert find([write("a", "1"), write("b", "2"), write("a", "3")], "a") == "3"
    assert find([write("a", "1")], "b") is None


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3), st.binary(max_size=200)), max_size=8))
def test_a_record_is_taken_out_of_what_it_was_put_into(pieces: list[tuple[bytes, bytes, bytes]]) -> None:
    unwrapper = Unwrapper()
    heads = [b"", b"\x1a\x01a", b"\x1a\x02ab"]
    for first, second, record in 2 * pieces:
        resource, scope = heads[len(first) % 3], heads[len(second) % 3]
        content = Wrapper(resource, scope).wrap(record)
        assert unwrapper.unwrap(content) == ((resource, scope), record)


def test_what_is_in_another_order_is_cut_right_too() -> None:
    record, field = b"\x12\x03abc", b"\x1a\x05\x12\x03abc"
    usual, other = Wrapper(field, b"").wrap(record), Wrapper(b"", b"").wrap(record) + field
    assert len(usual) == len(other)
    for contents in ((usual, other), (other, usual)):
        unwrapper = Unwrapper()
        assert [unwrapper.unwrap(content) for content in 2 * contents] == 4 * [((field, b""), record)]


def test_one_record_that_is_wrong_costs_no_other() -> None:
    good = LogRecord(time_unix_nano=TIME).SerializeToString()
    done = transcoded(LOGS, [good, b"\x32\x02\x0a\x05", good, b"\x2a\x03\x0a\x01\xff", good], Choice())
    assert [one.dead.refusal.message.partition(":")[0] for one in done.dead] == ["log_records[1]", "log_records[3]"]
    assert len(done.ids) == 3


def test_requests_of_one_millisecond_have_ids_of_their_own() -> None:
    record = LogRecord(time_unix_nano=TIME).SerializeToString()
    made = [one for _ in range(200) for one in transcoded(LOGS, 5 * [record], Choice()).ids]
    assert len(set(made)) == len(made) == 1_000
    assert made == sorted(made)


def test_an_attribute_that_is_not_valid_is_refused_in_each_of_many_records() -> None:
    """Records are written some hundred at once, and attributes that were valid once are not looked at again."""
    good = LogRecord(time_unix_nano=TIME).SerializeToString() + tagged(6, len(write("a", "b"))) + write("a", "b")
    bad = good + b"\x32\x08\x0a\x01c\x12\x03\x0a\x01\xff"
    for choice in (Choice(), Choice(()), Choice(["a"])):
        done = transcoded(LOGS, 300 * [good, bad], choice)
        assert [len(done.ids), len(done.dead)] == [300, 300]
        assert [one.dead.event.payload[-len(bad) :] for one in done.dead] == 300 * [bad]


@pytest.mark.parametrize("signal", [LOGS, TRACES])
@pytest.mark.parametrize("count", [126, 127, 128, 129, 130])
def test_of_very_many_attributes_as_many_become_metadata_as_there_is_room_for(signal: Signal, count: int) -> None:
    attributes = [write(f"k{number}", "v") for number in range(count)]
    number = 6 if signal is LOGS else 9
    record = b"".join(tagged(number, len(one)) + one for one in attributes)
    done = transcoded(signal, [record, KINDS[signal]().SerializeToString()], Choice())
    first, second = EventPayload.FromString(done.payload).events
    assert len(first.metadata) == min(count, LIMITS.metadata_entries)
    assert not second.metadata


def test_a_record_that_would_take_the_next_one_for_its_own_does_not_hide_it() -> None:
    """One behind the other they are one valid message: the first ends with a field as long as the second."""
    hidden = LogRecord(time_unix_nano=TIME).SerializeToString() + tagged(6, 8) + b"\x0a\x01a\x12\x03\x0a\x01\xff"
    takes = b"\xa2\x06" + bytes((len(hidden),))
    good = LogRecord(time_unix_nano=TIME).SerializeToString()
    done = transcoded(LOGS, [takes, hidden, good], Choice())
    assert [one.dead.refusal.message.partition(":")[0] for one in done.dead] == ["log_records[0]", "log_records[1]"]
    assert len(EventPayload.FromString(done.payload).events) == 1


def test_the_size_of_a_request_is_that_of_its_bytes() -> None:
    records = [LogRecord(time_unix_nano=TIME + number).SerializeToString() for number in range(100)]
    done = transcoded(LOGS, records, Choice())
    events = list(EventPayload.FromString(done.payload).events)
    requests, _ = group(Batch.from_events(events), 1_000, 400)
    assert len(requests) > 1
    assert all(len(request.body) <= 400 for request in requests)
    assert sum(len(scope.records) for request in requests for scope in split(request.body, 1_000)) == 100


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 2_097_152])
def test_the_length_of_a_field_is_written_as_protobuf_does(size: int) -> None:
    assert BytesValue(value=bytes(size)).SerializeToString().startswith(tagged(1, size) if size else b"")
    assert BytesValue.FromString(tagged(1, size) + bytes(size)).value == bytes(size)


@pytest.mark.parametrize("times", [(0, 1, 2**28 - 1, 2**28), (TIME, TIME + 1, TIME - 2**29, 2**63 - 1)])
def test_times_are_written_as_protobuf_reads_them(times: tuple[int, ...]) -> None:
    writer = TimeWriter()
    assert [Event.FromString(b"\x10" + writer.write(one)).timestamp_unix_ns for one in times] == list(times)


@examples(60)
@given(st.data())
def test_many_records_at_once_become_what_each_becomes_by_itself(data: st.DataObject) -> None:
    signal, choice = data.draw(SIGNALS), data.draw(CHOICES)
    check_many(signal, data.draw(st.lists(record_bytes(signal), min_size=1, max_size=6)), choice)


@examples(200)
@given(st.lists(metric_bytes(), min_size=1, max_size=4), CHOICES)
def test_many_metrics_at_once_become_what_each_becomes_by_itself(records: list[bytes], choice: Choice) -> None:
    check_many(METRICS, records, choice)


@pytest.mark.parametrize("kind", POINTS, ids=str)
@pytest.mark.parametrize("counts", [[1], [2, 1], [0, 1, 3]])
@pytest.mark.parametrize(
    ("names", "expected"), [(None, {"a": "1", "b": "2"}), ((), {}), (["b"], {"b": "2"})], ids=["all", "none", "b"]
)
def test_metrics_are_read_together(
    kind: tuple[int, int, str],
    counts: list[int],
    names: list[str] | None,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attributes = [write("a", "1"), write("b", "2")]
    records = [metric_of(kind, [(TIME + number, attributes) for number in range(count)]) for count in counts]
    done = check_many(METRICS, records, Choice(names))
    events = EventPayload.FromString(done.payload).events
    assert done.weights == [max(1, count) for count in counts]
    assert [dict(event.metadata) for event in events] == [expected if count == 1 else {} for count in counts]
    assert all(event.timestamp_unix_ns == TIME for event, count in zip(events, counts, strict=True) if count)
    monkeypatch.setattr(RecordWriter, "write", None)  # none of them is written by itself
    assert len(transcoded(METRICS, records, Choice(names)).ids) == len(counts)


def test_a_metric_without_a_time_has_that_of_its_arrival_and_one_of_after_2262_is_refused() -> None:
    before = time.time_ns()
    done = check_many(METRICS, [metric_of(POINTS[0], [(0, [])]), metric_of(POINTS[0], [(2**64 - 1, [])])], Choice())
    (event,) = EventPayload.FromString(done.payload).events
    assert before <= event.timestamp_unix_ns <= time.time_ns()
    assert "later than the year 2262" in done.dead[0].dead.refusal.message
    (event,) = EventPayload.FromString(check_many(METRICS, [metric_of(POINTS[0], [(0, [])])], Choice()).payload).events
    assert before <= event.timestamp_unix_ns <= time.time_ns()


def check_many(signal: Signal, records: list[bytes], choice: Choice) -> Transcoded:
    """Hold what records become together against what each becomes by itself, and return it."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (ColumnWriter, MetricColumnWriter):
            patch.setattr(kind, "write", lambda *arguments: None)
        slow = transcoded(signal, records, choice)
    done = transcoded(signal, records, choice)
    assert done.weights == slow.weights
    pairs = [EventPayload.FromString(one.payload).events for one in (done, slow)]
    assert len(pairs[0]) == len(pairs[1]) == len(done.ids) == len(done.weights)
    for one, event_id, other in zip(pairs[0], done.ids, pairs[1], strict=True):
        assert one.id == event_id
        if len(other.id) == 26:
            other.id = one.id
        if not abs(one.timestamp_unix_ns - TIME) < 10**6:
            other.timestamp_unix_ns = one.timestamp_unix_ns
        assert one == other
    assert [one.dead.refusal._replace(event_id="") for one in done.dead] == [
        one.dead.refusal._replace(event_id="") for one in slow.dead
    ]
    return done


def test_requests_that_are_read_in_several_ways_at_a_time_are_each_read_in_their_own() -> None:
    record = LogRecord(time_unix_nano=TIME, severity_text="I").SerializeToString()
    record += b"".join(tagged(6, len(one)) + one for one in (write("a", "1"), write("b", "2")))
    body = b"".join(join([Scope(b"", b"", 1_000 * [record])]))
    ways = [(Choice(), "east"), (Choice(["a"]), ""), (Choice(()), "west"), (Choice(["b"]), "east")]
    readings = [transcode(LOGS, body, LIMITS, choice, cluster=cluster) for choice, cluster in 3 * ways]
    results: list[Transcoded] = []
    while readings:
        for reading in list(readings):
            try:
                next(reading)
            except StopIteration as end:
                results.append(end.value)
                readings.remove(reading)
    for done, (_, cluster), names in zip(results, 3 * ways, 3 * [["a", "b"], ["a"], [], ["b"]], strict=True):
        wanted = {name: {"a": "1", "b": "2"}[name] for name in names} | ({"cluster": cluster} if cluster else {})
        assert all(dict(event.metadata) == wanted for event in EventPayload.FromString(done.payload).events)


def test_spans_have_their_flags_also_where_the_installed_messages_are_older_than_these() -> None:
    file = descriptor_pb2.FileDescriptorProto.FromString(trace_pb2.DESCRIPTOR.serialized_pb)
    span = next(one for one in file.message_type if one.name == "Span")
    names = [field.name for field in span.field]
    del span.field[names.index("flags")]
    seal_attributes(span)
    pool = descriptor_pool.DescriptorPool()
    for needed in (common_pb2, resource_pb2):
        pool.AddSerializedFile(needed.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    kind: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("opentelemetry.proto.trace.v1.Span"))
    read = kind.FromString(Span(flags=0x101, attributes=[KeyValue(key="a")]).SerializeToString())
    assert read.flags == 0x101
    assert list(read.attributes) == [KeyValue(key="a").SerializeToString()]
