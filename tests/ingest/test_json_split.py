"""Records are found window by window, and nothing is read that nobody takes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest import CloudEventsIngestor, JsonIngestor, json_split
from polku.ingest.json_split import Record, split_lines, split_records
from tests.support.pace import check_cost

FILLER = "x" * 20_000


def ingest(data: bytes) -> Iterator[Event | RecordError]:
    return JsonIngestor().ingest(data, IngestContext("json", "", ""))


def split(found: Iterator[Record | Event | None]) -> list[Record]:
    records = [record for record in found if record is not None]
    assert all(isinstance(record, Record) for record in records)
    return cast("list[Record]", records)


VALUES = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "},{", "],[", '"', "\\\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "},{"]), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=30), st.sampled_from([None, 1]), st.integers(1, 40))
@example([{"a": [{"a": 1}, {"a": 2}]}, {}, {"a": "},{"}] * 5, None, 1)
def test_an_array_is_cut_between_its_records_wherever_windows_end(
    values: list[object], indent: int | None, window: int
) -> None:
    body = json.dumps(values, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_split, "_WINDOW", window)
        records = [record for record in split(split_records(body)) if record.data.strip()]
        assert [json.loads(record.data) for record in records] == values
        assert [record.place for record in records] == list(range(len(values)))
        for record in records:
            assert body[record.offset :].startswith(record.data)


def test_what_is_not_json_costs_its_record_alone_whichever_window_it_is_in() -> None:
    events = [json.dumps({"id": str(number), "source": FILLER}, separators=(",", ":")) for number in range(12)]
    events[7] = events[7].replace(":", " ", 1)
    results = list(ingest(f"[{', '.join(events)}]".encode()))
    assert [index for index, result in enumerate(results) if isinstance(result, RecordError)] == [7]
    assert [result.id for result in results if isinstance(result, Event)] == [str(n) for n in range(12) if n != 7]


@given(st.lists(st.sampled_from([b"", b" ", b"{}", b"12345", b"\r"]), max_size=40), st.integers(1, 9))
def test_lines_have_their_numbers_and_places_wherever_windows_end(lines: list[bytes], window: int) -> None:
    body = b"\n".join(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_split, "_WINDOW", window)
        records = split(split_lines(body))
    assert [(r.line, r.data) for r in records] == [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    assert all(body[record.offset :].startswith(record.data) for record in records)


MILLIONS = {
    "numbers": b"[" + b"1," * 2_000_000 + b"1]",
    "numbers without an end": b"[" + b"1," * 2_000_000,
    "empty objects": b"[" + b"{}," * 1_300_000 + b"{}]",
    "empty arrays": b"[" + b"[]," * 1_300_000 + b"[]]",
    "blank lines": b"\n" * 4_000_000,
    "brackets": b"[" * 2_000_000,
    "brackets in an object": b'{"a":' + b"[" * 2_000_000,
    "quotes": b"[" + b'"",' * 1_000_000,
}


@pytest.mark.parametrize("name", MILLIONS)
def test_millions_of_records_cost_what_is_taken_of_them(name: str) -> None:
    tracemalloc.start()
    try:
        taken = list(islice(ingest(MILLIONS[name]), 10_001))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(taken) <= 10_001
    assert peak < 16_000_000


def test_the_repeated_name_is_found_in_one_pass() -> None:
    names = b",".join(b'"%06x":""' % number for number in range(9_900))
    data = b'{"metadata":{%s,"%06x":""}}' % (names, 9_899)
    (error,) = ingest(data)
    assert "stands 2 times in one object" in str(error)
    check_cost(lambda: list(ingest(data)), 2)  # it took 20 s


def test_a_batch_of_cloudevents_may_nest_objects_in_arrays() -> None:
    data = [{"a": number} for number in range(30_000)]
    events = [{"specversion": "1.0", "id": str(n), "type": "t", "source": "s", "data": data} for n in range(3)]
    results = CloudEventsIngestor().ingest(json.dumps(events).encode(), IngestContext("cloudevents", "", ""))
    assert [json.loads(event.payload) for event in results if isinstance(event, Event)] == [data] * 3
