"""An attribute that a record has is not added again, wherever its bytes stand."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from polku import Event
from polku.otlp.fields import attributes_in
from polku.otlp.grouping import _attribute, _stands_in, group
from polku.otlp.signals import LOGS
from polku.otlp.wire import Wrapper

TAG = 6
SHOP = _attribute(TAG, "shop", "one")
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
    if _stands_in(record, SHOP.framed):
        assert SHOP.content in attributes


def test_a_field_behind_others_is_found_and_one_inside_another_is_not() -> None:
    assert SHOP is not None
    before = LogRecord(time_unix_nano=7, observed_time_unix_nano=7, severity_text="INFO", flags=1)
    assert _stands_in(before.SerializeToString() + SHOP.framed, SHOP.framed)
    inside = LogRecord(trace_id=SHOP.framed, flags=1).SerializeToString()
    assert not _stands_in(inside, SHOP.framed)
    assert not _stands_in(inside[:5], SHOP.framed)


def test_an_attribute_whose_bytes_stand_in_a_text_alone_is_added() -> None:
    assert SHOP is not None
    record = LogRecord(trace_id=SHOP.framed).SerializeToString()
    event = Event(id="1", event_type="otel.log", payload=Wrapper(b"", b"").wrap(record), metadata={"shop": "one"})
    ((request,), failures) = group([event], 10, 1_000_000)
    assert not failures
    assert attributes_in(LOGS, request.records[0].content) == [SHOP.content]
