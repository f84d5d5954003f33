"""An attribute that a record has is not added again, wherever its bytes stand."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from polku import Batch, Event
from polku.otlp.additions import attribute_of, stands_in
from polku.otlp.fields import attributes_in
from polku.otlp.grouping import group
from polku.otlp.signals import LOGS, TRACES
from polku.otlp.wire import Wrapper

TAG = 6
SHOP = attribute_of(TAG, "shop", "one")
assert SHOP is not None
FIELDS = st.one_of(
    st.sampled_from([SHOP.framed, SHOP.framed[:-1], SHOP.content]),  # of these the last two are cut off, or no field
    st.builds(lambda **fields: LogRecord(**fields).SerializeToString(), time_unix_nano=st.integers(0, 2**64 - 1)),
    st.builds(lambda **fields: LogRecord(**fields).SerializeToString(), flags=st.integers(0, 2**32 - 1)),
    st.builds(lambda **fields: LogRecord(**fields).SerializeToString(), severity_number=st.integers(0, 24)),
    st.sampled_from([SHOP.framed, b"x", b"x" * 200, b"x" * 20_000, SHOP.framed * 20]).map(
        lambda inner: LogRecord(trace_id=inner).SerializeToString()
    ),
    st.sampled_from(
        [b"\xf8\x01\x07", b"\x33\x34", b"\x50\xff\xff\xff\xff\x0f", b"\x00"]
    ),  # field 31, a group, a number
)


@given(st.lists(FIELDS, max_size=6))
def test_a_field_is_found_only_where_it_is_one(fields: list[bytes]) -> None:
    assert SHOP is not None
    record = b"".join(fields)
    try:
        attributes = attributes_in(LOGS, record)
    except DecodeError:  # whatever came in was checked: what is cut off takes bytes of what follows
        return
    if stands_in(record, SHOP.framed):
        assert SHOP.content in attributes


def test_a_field_behind_others_is_found_and_one_inside_another_is_not() -> None:
    assert SHOP is not None
    before = LogRecord(time_unix_nano=7, observed_time_unix_nano=7, severity_text="INFO", flags=1)
    assert stands_in(before.SerializeToString() + SHOP.framed, SHOP.framed)
    inside = LogRecord(trace_id=SHOP.framed, flags=1).SerializeToString()
    assert not stands_in(inside, SHOP.framed)
    assert not stands_in(inside[:5], SHOP.framed)


def test_an_attribute_whose_bytes_stand_in_a_text_alone_is_added() -> None:
    assert SHOP is not None
    record = LogRecord(trace_id=SHOP.framed).SerializeToString()
    event = Event(id="1", event_type="otel.log", payload=Wrapper(b"", b"").wrap(record), metadata={"shop": "one"})
    ((request,), failures) = group(Batch.from_events([event]), 10, 1_000_000)
    assert not failures
    assert attributes_in(LOGS, request.records.contents[0]) == [SHOP.content]


def a_batch(*records: bytes, metadata: list[dict[str, str]], resources: list[bytes], kind: str = "otel.log") -> Batch:
    """Return a batch that is bytes."""
    pairs = zip(records, metadata, resources, strict=True)
    events = [
        Event(id=str(number), event_type=kind, payload=Wrapper(resource, b"").wrap(record), metadata=some)
        for number, (record, some, resource) in enumerate(pairs)
    ]
    return Batch(payload=Batch.from_events(events).payload, count=len(events))


def test_one_event_that_is_no_record_costs_no_other_and_none_its_place() -> None:
    good = LogRecord(time_unix_nano=7).SerializeToString()
    batch = a_batch(
        *5 * [good], metadata=5 * [{"shop": "one"}], resources=[b"", b"\x0a\x02\xff", b"", b"\x0a\x01", b""]
    )
    events = list(batch.events)
    events[2].payload = b"\x12\x03\x12\xff\x01"
    requests, failures = group(Batch(payload=Batch.from_events(events).payload, count=5), 10, 1_000_000)
    slow, others = group(Batch.from_events(events), 10, 1_000_000)
    assert [failure.position for failure in failures] == [failure.position for failure in others] == [1, 2, 3]
    assert [request.body for request in requests] == [request.body for request in slow]
    assert [request.positions for request in requests] == [[0, 4]]


def test_a_value_that_a_step_changes_is_changed_in_its_place() -> None:
    assert SHOP is not None
    records = [LogRecord(flags=1).SerializeToString() + SHOP.framed for _ in range(4)]
    metadata = [{"shop": "one"}, {"shop": "two"}, {"shop": "one", "new": "x"}, {}]
    ((request,), failures) = group(a_batch(*records, metadata=metadata, resources=4 * [b""]), 10, 1_000_000)
    assert not failures
    assert request.positions == [0, 1, 2, 3]
    found = [LogRecord.FromString(content) for content in request.records.contents]
    texts = [{one.key: one.value.string_value for one in record.attributes} for record in found]
    assert texts == [{"shop": "one"}, {"shop": "two"}, {"shop": "one", "new": "x"}, {"shop": "one"}]
    assert [request.records.contents[place] for place in (0, 3)] == records[:2]


def test_requests_of_several_signals_stand_in_the_order_of_their_first_records() -> None:
    log, span = LogRecord(flags=1).SerializeToString(), Span(name="n").SerializeToString()
    kinds = ["otel.span", "otel.log", "otel.log", "other", "otel.span", "otel.logs"]
    events = [Event(id=str(number), event_type=kind) for number, kind in enumerate(kinds)]
    for event, record in zip(events, [span, log, log, b"text", span, b""], strict=True):
        event.payload = Wrapper(b"", b"").wrap(record) if record and record != b"text" else record
    requests, failures = group(Batch(payload=Batch.from_events(events).payload, count=6), 3, 1_000_000)
    assert not failures
    assert [(request.signal, request.positions) for request in requests] == [
        (TRACES, [0, 4]),
        (LOGS, [1, 2, 3]),
        (LOGS, [5]),
    ]
    assert [request.ids for request in requests] == [["0", "4"], ["1", "2", "3"], ["5"]]
    first, second = requests[1].halves()
    assert [first.ids, second.ids] == [["1"], ["2", "3"]]
