"""CloudEvents that are read, checked and filled in at once are those that are read one by one."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from polku import CloudEventsIngestor, Event, IngestContext, Limits
from polku.gateway.admission import admit_events
from polku.ingest import cloudevents_plain
from polku.ingest.cloudevents_shapes import Shapes
from polku.ingest.json_plain import Plain, filling_of
from polku.v1.gateway_pb2 import EventPayload
from tests.support.examples import examples

LIMITS = Limits(id_bytes=6, source_bytes=12, event_type_bytes=6, metadata_entries=3, metadata_value_bytes=130)
TEXTS = st.sampled_from(["", "a", "a%20b", "https://a/b?c", "ä", '"', "\\", "seven b", "x" * 130, "x" * 131, "1.0"])
DATA: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
TYPES = st.sampled_from(
    ["", "application/json", "text/plain", "application/octet-stream", "a/b+json", "APPLICATION/JSON", None, 1]
)
TIMES = st.sampled_from(
    ["2024-05-01T12:00:00Z", "2024-05-01T12:00:00.123456789+02:00", "1900-01-01T00:00:00Z", "", "now", None, 5]
)
WRONG: st.SearchStrategy[Any] = st.sampled_from([None, "", 1, True, {}])
EVENT = st.fixed_dictionaries(
    {
        "specversion": st.sampled_from(["1.0"] * 8 + ["0.3", ""]),
        "id": st.sampled_from(["1", "2", "3", "ä"]) | WRONG,
        "source": TEXTS | st.just("/shop"),
        "type": st.sampled_from(["t", "u.v", "seven b"]) | WRONG,
    },
    optional={
        "time": TIMES,
        "data": DATA,
        "data_base64": st.sampled_from(["aGk=", "?", None]),
        "datacontenttype": TYPES,
        "dataschema": st.sampled_from(["https://a/b", "polku:polku.event.v1.NetworkEventData", ""]),
        "subject": TEXTS,
        "severity": st.sampled_from(["info", "odd", 3]),
        "mdid": TEXTS,
        "cluster": TEXTS,
        "sequence": TEXTS | WRONG,
        "ext\u00e4": TEXTS,
    },
)
GOOD = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": st.uuids().map(str), "source": st.just("/shop"), "type": st.just("t.u")},
    optional={
        "time": st.just("2024-05-01T12:00:00.5Z"),
        "subject": st.sampled_from(["a", "ä"]),
        "data": DATA.filter(lambda data: data is not None),
        "datacontenttype": st.just("application/json"),
        "traceparent": st.just("x" * 55),
    },
)


def plain(data: bytes, limits: Limits, cluster: str = "") -> Plain | None:
    return CloudEventsIngestor().plain_reader(IngestContext("", cluster, "cloudevents"), limits)(data)


def alike(events: list[Event], members: list[dict[str, Any]]) -> list[Event]:
    for event, sent in zip(events, members, strict=True):
        if not sent.get("time"):
            assert event.timestamp_unix_ns
            event.timestamp_unix_ns = 1
    return events


@examples(300)
@given(st.lists(EVENT, min_size=1, max_size=3), st.booleans(), st.booleans(), st.sampled_from(["", "prod", "ä"]))
def test_events_are_those_of_the_careful_way(
    members: list[dict[str, Any]], escaped: bool, together: bool, cluster: str
) -> None:
    data = json.dumps(members if together else members[0], ensure_ascii=escaped).encode()
    found = plain(data, LIMITS, cluster)
    if found is None:
        return
    read = list(CloudEventsIngestor().ingest(data, IngestContext("", cluster, "cloudevents")))
    events = [one for one in read if isinstance(one, Event)]
    assert len(events) == len(read)
    if len({event.id for event in events}) != len(events):
        return  # who admits them sees that
    admission = admit_events(events, "", cluster, LIMITS)
    assert admission.refused == []
    assert found.ids == admission.ids
    given = members if together else members[:1]
    assert alike(list(EventPayload.FromString(found.payload).events), given) == alike(admission.batch.events, given)


SHAPED = {
    "specversion": st.sampled_from(["1.0"] * 8 + ["0.3", 1]),
    "id": st.sampled_from(["1", "2", "3"]) | WRONG,
    "source": TEXTS | st.just("/shop"),
    "type": st.sampled_from(["t", "u.v", "seven b"]) | WRONG,
    "subject": TEXTS,
}
MORE = {
    "time": TIMES,
    "data": DATA,
    "datacontenttype": TYPES,
    "cluster": TEXTS,
    "sequence": TEXTS | WRONG | st.just("x" * 1_100),
    "traceparent": st.just("x" * 55),
}
LIKE = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "s"}


@examples(300)
@given(
    st.lists(st.fixed_dictionaries(SHAPED, optional=MORE), min_size=1, max_size=3),
    st.sampled_from([("cluster",), ("sequence",), ("sequence", "traceparent"), ()]),
    st.booleans(),
    st.sampled_from(["", "prod"]),
)
def test_events_of_attributes_that_were_seen_before_are_those_of_the_careful_way(
    members: list[dict[str, Any]], names: tuple[str, ...], escaped: bool, cluster: str
) -> None:
    cloudevents_plain._SHAPES = shapes = Shapes(count().__next__)
    for _ in range(2):
        assert plain(json.dumps(LIKE | dict.fromkeys(names, "a")).encode(), LIMITS, cluster) is not None
    assert shapes._latest
    data = json.dumps(members, ensure_ascii=escaped).encode()
    found = plain(data, LIMITS, cluster)
    if found is None:
        return
    read = list(CloudEventsIngestor().ingest(data, IngestContext("", cluster, "cloudevents")))
    events = [one for one in read if isinstance(one, Event)]
    assert len(events) == len(read)
    if len({event.id for event in events}) != len(events):
        return
    admission = admit_events(events, "", cluster, LIMITS)
    assert admission.refused == []
    assert found.ids == admission.ids
    assert alike(list(EventPayload.FromString(found.payload).events), members) == alike(admission.batch.events, members)


def test_attributes_are_known_when_they_come_for_the_third_time() -> None:
    shapes, limits, filling = Shapes(), Limits(), filling_of("", "prod", str)
    read = (lambda source: source.removeprefix("/"), len)
    event = LIKE | {"time": "now", "data": {"a": [1, "b"]}, "tier": "gold", "datacontenttype": "application/json"}
    data = json.dumps([event]).encode()
    for _ in range(2):
        assert shapes.read(data, limits, filling, read) is None
        shapes.learn([{"subject": "s", "tier": "gold"}], limits)
    found = shapes.read(data, limits, filling, read)
    assert found is not None
    (got,) = EventPayload.FromString(found.payload).events
    metadata = {"subject": "s", "tier": "gold", "cluster": "prod"}
    assert got == Event(
        id="1", event_type="t", source="s", timestamp_unix_ns=3, payload=b'{"a": [1, "b"]}', metadata=metadata
    )
    for other in ({"tier": "ä"}, {"tier": None}, {"more": "x"}, {"data": None}, {"tier": "x" * 128}):
        assert shapes.read(json.dumps(event | other, ensure_ascii=False).encode(), limits, filling, read) is None
    assert shapes.read(data, Limits(id_bytes=9), filling, read) is None


def test_a_client_that_changes_its_attributes_all_the_time_has_a_decoder_defined_once_a_second_at_most() -> None:
    now = [0.0]
    shapes, limits, filling = Shapes(lambda: now[0]), Limits(), filling_of("", "", str)

    def knows(name: str) -> bool:
        data = {key: LIKE[key] for key in LIKE if key != "subject"} | {name: "x"}
        return shapes.read(json.dumps(data).encode(), limits, filling, (str, len)) is not None

    def learn(name: str) -> None:
        for _ in range(2):
            shapes.learn([{name: "x"}], limits)

    for name in "abc":
        learn(name)
    assert [knows(name) for name in "abc"] == [True, False, False]
    now[0] += 0.9
    learn("b")
    assert not knows("b")
    for name in "bcde":
        now[0] += 1.0
        learn(name)
    assert [knows(name) for name in "abcde"] == [False, True, True, True, True]


@given(st.lists(GOOD, min_size=1, max_size=3), st.booleans())
def test_plain_ones_are_read_at_once(members: list[dict[str, Any]], escaped: bool) -> None:
    assert plain(json.dumps(members, ensure_ascii=escaped).encode(), Limits()) is not None


def test_long_texts_are_written_too() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "a": "x" * 5_000, "data": "y" * 70_000}
    found = plain(json.dumps(event).encode(), Limits())
    assert found is not None
    (read,) = EventPayload.FromString(found.payload).events
    assert (read.id, read.metadata["a"], read.payload) == ("1", "x" * 5_000, b'"' + b"y" * 70_000 + b'"')


def test_what_is_no_cloudevent_is_not_plain() -> None:
    for data in (b"", b"[]x", b"1", b"[1]", b"{", b'{"id":"1"}', b" {}", b"[null]"):
        assert plain(data, Limits()) is None
