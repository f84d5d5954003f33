"""What is read many records at once is what is read one by one, mistakes and all."""

from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import example, given
from hypothesis import strategies as st

from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest import JsonIngestor
from polku.ingest.json_plain import read_array, read_lines
from polku.ingest.json_reading import read_records
from polku.ingest.json_record import event_from_json
from polku.ingest.json_split import split_lines, split_records

TEXTS = st.sampled_from(
    ["", "a", "b", ":", "a:b", "{", "}", "},{", '"', "\\", "\n", "ä", "\\u003a", "aGk=", "aGk", "a-_="]
)
NUMBERS = st.sampled_from([0, 1, -1, 2**63 - 1, 2**63, -(2**63), 10**30, 1.0, 1.5, 1e400, True])
WRONG: st.SearchStrategy[object] = st.none() | TEXTS | NUMBERS | st.just([]) | st.just({})
MEMBERS = st.one_of(
    st.tuples(st.sampled_from(["id", "source", "event_type", "payload"]), TEXTS | WRONG),
    st.tuples(st.just("timestamp_unix_ns"), NUMBERS | WRONG),
    st.tuples(st.just("metadata"), st.dictionaries(TEXTS, TEXTS | st.none(), max_size=3) | WRONG),
    st.tuples(st.just("route_to"), st.lists(TEXTS, max_size=2) | WRONG),
    st.tuples(st.sampled_from(["severity", "eventType", "network", "odd", "metadata:"]), WRONG),
)
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["1", "2", "a:b"]),
        "timestamp_unix_ns": st.integers(-(2**63), 2**63 - 1),
        "source": TEXTS,
        "event_type": TEXTS,
        "metadata": st.dictionaries(TEXTS, TEXTS, max_size=3),
        "payload": st.sampled_from(["", "aGk=", "aGkh"]),
        "route_to": st.lists(TEXTS, max_size=2),
    },
).map(lambda fields: list(fields.items()))
RECORDS = st.lists(GOOD | st.lists(MEMBERS, max_size=5), max_size=6)  # names may appear twice
ESCAPED = st.sampled_from([(",", ":", False), (", ", ": ", True), (" ,", " :", True)])


def written(members: list[tuple[str, object]], comma: str, colon: str, ascii: bool) -> str:
    """Return an object as JSON, also one with a name that appears twice."""
    inner = [f"{json.dumps(name)}{colon}{json.dumps(value, ensure_ascii=ascii)}" for name, value in members]
    return "{" + comma.join(inner) + "}"


Found = Iterable[Event | RecordError]


def told(found: Found) -> list[Event | tuple[str, str, int | None, int | None]]:
    """Return what was read so that it can be compared."""
    return [(str(one), one.event_id, one.line, one.offset) if isinstance(one, RecordError) else one for one in found]


def by_lines(data: bytes) -> tuple[Found, Found]:
    """Return what is read at once, and one by one."""
    context = IngestContext("shop", "", "ndjson")
    return JsonIngestor().ingest(data, context), filter(None, read_records(split_lines(data), event_from_json))


def whole(data: bytes) -> tuple[Found, Found]:
    """Return the same of data of which nobody says that it is lines."""
    context = IngestContext("shop", "", "json")
    return JsonIngestor().ingest(data, context), filter(None, read_records(split_records(data), event_from_json))


@given(RECORDS, ESCAPED, st.sampled_from([",", ", ", ",\n"]))
def test_arrays_are_read_as_record_by_record(
    records: list[list[tuple[str, object]]], style: tuple[str, str, bool], between: str
) -> None:
    together, apart = whole(f"[{between.join(written(record, *style) for record in records)}]".encode())
    assert told(together) == told(apart)


@given(
    RECORDS,
    ESCAPED,
    st.lists(st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", "", " ", ",", ",\n"]), min_size=6, max_size=6),
)
def test_lines_are_read_as_record_by_record(
    records: list[list[tuple[str, object]]], style: tuple[str, str, bool], ends: list[str]
) -> None:
    data = "".join(written(record, *style) + end for record, end in zip(records, ends, strict=False)).encode()
    together, apart = by_lines(data)
    assert told(together) == told(apart)


NAMES = ['"n":1', '"id":"b"', '"metadata":{', '"metadata":{}', '"a":"b"', '"a":":"']
PIECES = ['{"id":"a"', "{", "}", "\n", ",", "[", "]", '{"id":"a"}\n', '{"id":"a"},', *NAMES]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
@example(['{"id":"a"}', ",", '{"id":"a"}\n', '{"id":"a"', "\n", '"source":"b"', "}"])
@example(['{"metadata":{}', "\n", '"id":"b"', "}"])
def test_odd_lines_are_read_as_record_by_record(pieces: list[str]) -> None:
    for read in (by_lines, whole):
        together, apart = read("".join(pieces).encode())
        assert told(together) == told(apart)


@given(st.lists(GOOD.filter(bool), min_size=1, max_size=5))
def test_records_without_mistakes_are_read_at_once(records: list[list[tuple[str, object]]]) -> None:
    texts = [written(record, ",", ":", False) for record in records]
    if not any("\\" in text for text in texts):
        assert read_array(f"[{','.join(texts)}]".encode()) is not None
        assert read_lines("\n".join(texts).encode()) is not None


def test_a_name_that_stands_twice_is_found_though_a_colon_of_another_text_is_escaped() -> None:
    twice = b'[{"id":"1","metadata":{"a":"\\u003a"},"id":"2"}]'
    assert read_array(twice) is None
    (error,) = JsonIngestor().ingest(twice, IngestContext("shop", "", "json"))
    assert isinstance(error, RecordError)
    assert "id='2': stands 2 times" in error.message


def test_very_many_records_are_not_read_at_once() -> None:
    assert read_array(b"[" + b"{}," * 2_000 + b"{}]") is None
    assert read_array(b'[{"source":"' + b"x" * 300_000 + b'"}]') is None
