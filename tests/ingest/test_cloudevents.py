"""CloudEvents to events: the inverse of what the emitters write, and a clear error for what is none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import CloudEventsIngestor, Event, IngestContext, JsonIngestor, RecordError
from polku.emit.cloudevents import ATTRIBUTES, cloud_event
from polku.ingest.cloudevents_reading import event_from_headers
from polku.ingest.json_fields import FieldError

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
KEYS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12).filter(lambda key: key[:2] != "md")
PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def read(data: bytes) -> list[Event | RecordError]:
    return list(CloudEventsIngestor().ingest(data, IngestContext("cloudevents")))


def read_one(**members: Any) -> Event:
    (event,) = read(json.dumps({**MINIMAL, **members}).encode())
    assert isinstance(event, Event), event
    return event


@st.composite
def events(draw: st.DrawFn, *, ids: st.SearchStrategy[str] = NAMES, network: bool = True) -> Event:
    event = Event(
        id=draw(ids),
        source=draw(NAMES),
        event_type=draw(NAMES),
        timestamp_unix_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        severity=draw(st.integers(0, 9)),  # type: ignore[arg-type]
        outcome=draw(st.integers(0, 9)),  # type: ignore[arg-type]
        metadata=draw(st.dictionaries(KEYS.filter(lambda key: key not in ATTRIBUTES or key == "time"), TEXT)),
    )
    if draw(st.booleans()):
        event.metadata["subject"] = draw(TEXT.filter(bool))
    if network and draw(st.booleans()):
        event.network.CopyFrom(
            type(event.network)(src_ip=draw(TEXT), latency_ms=draw(st.floats()), bytes_sent=draw(st.integers(0, 2**63)))
        )
        return event
    event.payload = draw(
        st.one_of(
            st.binary(max_size=40),
            st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | TEXT, st.lists, max_leaves=8).map(
                lambda value: json.dumps(value).encode()
            ),
        )
    )
    if event.payload and draw(st.booleans()):
        types = ("application/xml", "application/vnd.example+json", "application/json; charset=utf-8", "text/plain")
        event.metadata["datacontenttype"] = draw(st.sampled_from(types))
        event.metadata["dataschema"] = "https://schema.example/1"
    return event


@given(st.lists(events(), max_size=3))
def test_what_the_emitters_write_is_read_back(given_events: list[Event]) -> None:
    batch = msgspec.json.encode([cloud_event(event) for event in given_events])
    got = read(batch)
    assert [repr(event) for event in got] == [repr(event) for event in given_events]  # NaN is not equal to itself
    assert msgspec.json.encode([cloud_event(event) for event in got if isinstance(event, Event)]) == batch


@given(events(ids=st.text(PRINTABLE, min_size=1, max_size=20), network=False))
def test_binary_mode_reads_the_same(event: Event) -> None:
    from urllib.parse import quote

    fields = cloud_event(event)
    headers = {f"ce-{name}": quote(str(value)) for name, value in fields.items() if not name.startswith("data")}
    if "dataschema" in fields:
        headers["ce-dataschema"] = fields["dataschema"]
    headers["content-type"] = fields.get("datacontenttype", "")
    assert event_from_headers(headers, event.payload) == event


def test_a_batch_and_lines_are_read() -> None:
    one, two = ({**MINIMAL, "id": name} for name in "ab")
    for data in (json.dumps([one, two]), f"{json.dumps(one)}\n{json.dumps(two)}\n"):
        assert [event.id for event in read(data.encode()) if isinstance(event, Event)] == ["a", "b"]


@pytest.mark.parametrize(
    ("members", "payload", "content_type"),
    [
        ({"data": "text"}, b'"text"', None),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text", "text/plain"),
        ({"data": {"a": 1}, "datacontenttype": "application/xml"}, b'{"a": 1}', "application/xml"),
        ({"data": 12345678901234567890123, "datacontenttype": "application/json"}, b"12345678901234567890123", None),
        ({"data": [1], "datacontenttype": "application/geo+json"}, b"[1]", "application/geo+json"),
        ({"data": None}, b"", None),
        ({"data": None, "datacontenttype": "application/json"}, b"null", None),
        ({"data_base64": "/w=="}, b"\xff", None),
        ({"data_base64": "/w==", "datacontenttype": "image/png"}, b"\xff", "image/png"),
        ({"data_base64": "e30=", "datacontenttype": "application/octet-stream"}, b"{}", "application/octet-stream"),
        ({}, b"", None),
    ],
)
def test_data_becomes_the_payload(members: dict[str, Any], payload: bytes, content_type: str | None) -> None:
    event = read_one(**members)
    assert event.payload == payload
    assert event.metadata.get("datacontenttype") == content_type


@pytest.mark.parametrize(
    ("time", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01t01:00:00.5+01:00", 500_000_000),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1970-01-01T00:00:00.1234567891Z", 123_456_789),
    ],
)
def test_times_are_read_to_the_nanosecond(time: str, nanoseconds: int) -> None:
    assert read_one(time=time).timestamp_unix_ns == nanoseconds


@pytest.mark.parametrize(
    ("source", "expected"),
    [("my%20agent", "my agent"), ("https://h/%C3%A4", "https://h/ä"), ("/a%2Fb", "/a%2Fb"), ("50%", "50%")],
)
def test_a_source_is_decoded_where_that_can_be_undone(source: str, expected: str) -> None:
    assert read_one(source=source).source == expected


def test_extensions_become_metadata() -> None:
    event = read_one(flag=True, count=7, gone=None, severity="warning", outcome="maybe", subject="s", traceparent="00")
    kept = {"flag": "true", "count": "7", "outcome": "maybe", "subject": "s", "traceparent": "00"}
    assert dict(event.metadata) == kept
    assert event.severity == 3


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"specversion": "0.3"}, "specversion='0.3': must be '1.0'"),
        ({"specversion": None}, "specversion='': is missing"),
        ({"id": ""}, "id='': is missing or empty"),
        ({"source": None}, "source='': is missing"),
        ({"time": "now"}, "time='now': is no time"),
        ({"time": "2024-13-01T00:00:00Z"}, "is no time"),
        ({"time": "9999-01-01T00:00:00Z"}, "out of range"),
        ({"data": 1, "data_base64": ""}, "stands beside 'data'"),
        ({"data_base64": "?"}, "data_base64='?': is not base64"),
        ({"data_base64": 5}, "data_base64=5: is a number"),
        ({"mine": {"a": 1}}, "mine={'a': 1}: is an object"),
        ({"type": "\ud800"}, "not JSON"),
        ({"dataschema": "polku:polku.event.v1.NetworkEventData", "data": {"src": 1}}, "network.src=1: NetworkEvent"),
        ({"dataschema": "polku:polku.event.v1.NetworkEventData", "data": [1]}, "is an array"),
    ],
)
def test_what_is_no_cloudevent_names_field_value_and_fix(members: dict[str, Any], message: str) -> None:
    good = json.dumps(MINIMAL).encode()
    bad = json.dumps({**MINIMAL, **members}).encode()
    first, error, last = read(b"[" + good + b"," + bad + b"," + good + b"]")
    assert isinstance(first, Event)
    assert isinstance(last, Event)
    assert isinstance(error, RecordError)
    assert str(error).startswith("[1]: ")
    assert message in str(error)


@given(st.binary(max_size=200) | TEXT.map(str.encode))
def test_no_bytes_raise(data: bytes) -> None:
    read(data)
    read(b"[" + data + b"]")


def test_binary_mode_names_what_is_missing() -> None:
    with pytest.raises(FieldError, match="id=''"):
        event_from_headers({"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "t"}, b"")


def test_more_attributes_than_any_gateway_takes_are_refused_before_they_are_metadata() -> None:
    many = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **{f"a{n}": n for n in range(10_001)}}
    (error,) = CloudEventsIngestor().ingest(json.dumps(many).encode(), IngestContext("cloudevents"))
    assert isinstance(error, RecordError)
    assert "has more than 10000 names" in str(error)


# The rules and the first two examples are those of the HTTP protocol binding 1.0.2, section 3.1.3.2.
@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u20ac \U0001f600"),
        ("%45uro", "Euro"),  # encoded without need
        ("%2541", "%41"),  # one round
        ("100%", "100%"),
        ('"Euro \u20ac"', "Euro \u20ac"),  # of older versions
        (r'"a \"b\" \\ c"', 'a "b" \\ c'),
        ('"%41%22"', 'A"'),  # quotes first, percent-encoding then
        ('a "b" c', 'a "b" c'),
        ('"a" b"', '"a" b"'),
    ],
)
def test_headers_are_decoded_as_the_binding_says(header: str, text: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-subject": header}
    assert event_from_headers(headers, b"").metadata["subject"] == text


@pytest.mark.parametrize("header", ["%C0%A0", "%ED%A0%80", "%E2%82", "a%FFb", "\udcff"])
def test_headers_that_are_not_utf8_are_refused(header: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-subject": header}
    with pytest.raises(FieldError, match=r"ce-subject=.*is not UTF-8"):
        event_from_headers(headers, b"")


@pytest.mark.parametrize("names", [sorted(MINIMAL), sorted(MINIMAL, reverse=True)])
def test_the_reader_of_events_says_how_a_cloudevent_is_sent(names: list[str]) -> None:
    record = json.dumps({name: MINIMAL[name] for name in names}).encode()
    (error,) = JsonIngestor().ingest(record, IngestContext("json"))
    assert isinstance(error, RecordError)
    assert "specversion='1.0': this is a CloudEvent: send it as application/cloudevents+json" in str(error)
