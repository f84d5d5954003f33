"""What is read, checked and filled in at once is what is read, checked and filled in one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from polku import Limits
from polku.contracts import IngestContext
from polku.errors import InputError
from polku.event.v1.event_pb2 import Event
from polku.gateway.admission import Admission, admit_events
from polku.gateway.ingestors import Ingestors
from polku.gateway.plain import admit_plain
from polku.ingest import JsonIngestor
from polku.ingest.json_plain import Plain, filling_of, read_filled
from polku.v1.gateway_pb2 import EventPayload

LIMITS = Limits(
    id_bytes=6, source_bytes=6, event_type_bytes=6, routes=2, route_bytes=4, metadata_entries=2, metadata_key_bytes=7
)
TEXTS = st.sampled_from(
    ["", "a", "b:c", '"', "\\", "\n", "ä", "€", "𝄞", "six by", "seven b", "äää", "ääää", "cluster", "\x00", "\x7f", ":"]
)
LONG = st.sampled_from([1, 127, 128, 1_020, 1_023, 1_024, 16_384, 16_385]).map(lambda size: "x" * size)
SHORT = st.sampled_from(["", "a", "ä:b", "äää"])
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 127, 128, 2**28 - 1, 2**28, 2**63, -1, 1.0, 1e3])
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["1", "2", "3", "ä", "a:b", "seven b", "", None]),
        "timestamp_unix_ns": NUMBERS | st.none(),
        "source": TEXTS | st.none(),
        "event_type": TEXTS | st.none(),
        "metadata": st.dictionaries(TEXTS, TEXTS | LONG, max_size=3) | st.none(),
        "payload": st.sampled_from(["", "aGk=", "/+8=", "aGk", "_-8=", None]) | LONG.map(lambda text: text[:-1] + "="),
        "route_to": st.lists(TEXTS, max_size=3) | st.none(),
    },
)
RECORDS = st.lists(RECORD, max_size=4)
MADE = "made"


def ids() -> Iterator[str]:
    return iter([f"made-{number}" for number in range(100)])


def carefully(data: bytes, context: IngestContext, limits: Limits) -> Admission:
    """Return what is admitted one by one, as `Intake.admit_raw` does it."""
    found = list(JsonIngestor().ingest(data, context))
    events = [one for one in found if isinstance(one, Event)]
    admission = admit_events(events, context.source, context.cluster, limits)
    return replace(admission, refused=[*admission.refused, *[one for one in found if not isinstance(one, Event)]])


def alike(found: list[Event], given: list[dict[str, object]]) -> list[Event]:
    """Return events without what is made for each: the ids and times that were not given."""
    for event, record in zip(found, given, strict=True):
        assert event.id
        assert event.timestamp_unix_ns
        if not record.get("id"):
            event.id = MADE
        if not record.get("timestamp_unix_ns"):
            event.timestamp_unix_ns = 1
    return found


@given(RECORDS, st.booleans(), st.booleans(), SHORT, SHORT)
def test_events_are_those_that_the_careful_way_admits(
    records: list[dict[str, object]], escaped: bool, by_line: bool, source: str, cluster: str
) -> None:
    texts = [json.dumps(record, ensure_ascii=escaped, separators=(",", ":")) for record in records]
    data = ("\n".join(texts) if by_line else texts[0] if len(texts) == 1 else f"[{','.join(texts)}]").encode()
    context = IngestContext(source, cluster, "ndjson" if by_line else "json")
    plain = JsonIngestor().plain_reader(context, LIMITS)(data)
    if plain is None:
        return
    assert not plain.payload or plain.ids
    events = list(EventPayload.FromString(plain.payload).events)
    assert [event.id for event in events] == plain.ids
    assert plain.routed == any(event.route_to for event in events)
    if len(set(plain.ids)) != len(records):
        return  # `admit_plain` leaves these to the careful way
    admission = carefully(data, context, LIMITS)
    assert admission.refused == []
    assert alike(events, records) == alike(list(admission.batch.events), records)


GOOD = {
    "id": st.sampled_from(["1", "ä", "a:b"]),
    "timestamp_unix_ns": st.integers(-(2**63), 2**63 - 1),
    "metadata": st.dictionaries(TEXTS, TEXTS | LONG, max_size=3) | st.none(),
    "payload": st.sampled_from(["", "aGk=", "/+8="]),
    "event_type": TEXTS,
}


@given(st.lists(st.fixed_dictionaries({}, optional=GOOD), min_size=1, max_size=4))
def test_records_that_keep_all_limits_are_plain(records: list[dict[str, object]]) -> None:
    data = json.dumps(records, ensure_ascii=False).encode()
    limits = Limits(metadata_value_bytes=70_000)
    is_clear = b"\\" not in data or b":" not in "".join(map(str, records)).encode()
    assert not is_clear or JsonIngestor().plain_reader(IngestContext("shop", "", "json"), limits)(data) is not None


def read(data: bytes) -> Plain | None:
    made = ids()
    return read_filled(data, Limits(), filling_of("shop", "prod", lambda: next(made)), by_line=False)


def test_what_an_event_lacks_is_filled_in() -> None:
    plain = read(b'[{"event_type":"t"},{"id":"b","source":"s","timestamp_unix_ns":7,"metadata":{"cluster":"c"}}]')
    assert plain is not None
    first, second = EventPayload.FromString(plain.payload).events
    assert (first.id, first.source, first.metadata["cluster"]) == ("made-0", "shop", "prod")
    assert first.timestamp_unix_ns > 1_600_000_000_000_000_000
    assert second == Event(id="b", source="s", timestamp_unix_ns=7, metadata={"cluster": "c"})
    assert plain.ids == ["made-0", "b"]


def test_a_name_that_stands_twice_is_seen_behind_spaces_too() -> None:
    assert read(b'{"id":"a","id" :"b"}') is None
    assert read(b'{"metadata":{"a":"1","a" :"2"}}') is None
    assert read(b'{"id" : "a:b", "source" :":"}') is not None


def test_what_is_no_array_and_no_object_is_not_plain() -> None:
    for data in (b"", b" {}", b"1", b"[1]", b"[{}", b'{"id":"a"}{"id":"b"}', b"\xef\xbb\xbf{}", b'{"odd":1}'):
        assert read(data) is None


class Doubling(JsonIngestor):
    """Read each event twice."""

    __slots__ = ()

    def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event]:
        yield Event(id="own")


def test_an_ingestor_that_inherits_reads_for_itself() -> None:
    ingestors = Ingestors({"json": JsonIngestor(), "own": Doubling()}, None, Limits())
    context = IngestContext("shop", "", "json")
    assert ingestors.plain_reader("json", context, Limits()) is not None
    assert ingestors.plain_reader("own", context, Limits()) is None
    assert ingestors.plain_reader("nowhere", context, Limits()) is None


def test_what_is_not_to_be_admitted_whole_goes_the_careful_way() -> None:
    ingestors = Ingestors({"json": JsonIngestor()}, None, Limits())
    limits = Limits(batch_events=2)

    def admit(data: bytes, cluster: str = "") -> Admission | None:
        return admit_plain(data, IngestContext("shop", cluster, "json"), ingestors, "json", limits, None)

    found = admit(b'[{"id":"a"},{"id":"b"}]')
    assert found is not None
    assert (found.ids, len(found.batch), found.refused) == (["a", "b"], 2, [])
    assert admit(b'[{"id":"a"},{"id":"a"}]') is None
    assert admit(b'[{"id":"a"},{"id":"b"},{"id":"c"}]') is None
    assert admit(b"[]") is None
    with pytest.raises(InputError, match="cluster='ccc"):
        admit(b'[{"id":"a"}]', "c" * 1_000)
