"""Admission takes what is complete as it is, fills in what is missing, and names what is wrong."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polku import Code, Event
from polku.batch.frames import join_frames
from polku.errors import InputError
from polku.gateway.admission import (
    Admission,
    admit_event,
    admit_events,
    admit_in_turns,
    admit_named,
    admit_payload,
)
from polku.limits import Limits
from polku.v1.gateway_pb2 import EventPayload
from tests.support.pace import check_cost

LIMITS = Limits(batch_events=8, metadata_entries=3, metadata_key_bytes=7, metadata_value_bytes=10)


def complete(event_id: str, **fields: Any) -> Event:
    return Event(**{"id": event_id, "timestamp_unix_ns": 1, "source": "agent", **fields})


def payload(*events: Event) -> bytes:
    return EventPayload(events=events).SerializeToString()


def admit(*events: Event, cluster: str = "", limits: Limits = LIMITS) -> Admission:
    return admit_payload(payload(*events), "client", cluster, limits)


def refused(admission: Admission) -> list[tuple[str, Code]]:
    return [(refusal.event_id, refusal.code) for refusal in admission.refused]


def test_complete_events_go_on_as_the_bytes_that_came() -> None:
    data = payload(complete("1"), complete("2"))
    admission = admit_payload(data, "client", "", LIMITS)
    assert admission.batch.payload is data
    assert (admission.ids, admission.refused) == (["1", "2"], [])


def test_a_message_without_events_is_an_empty_batch() -> None:
    admission = admit()
    assert (len(admission.batch), admission.ids, admission.refused) == (0, [], [])


def test_missing_ids_times_and_sources_are_filled_in_and_given_ones_stay() -> None:
    admission = admit(Event(), complete("2"), Event(id="3", source="own"))
    first, second, third = admission.batch.events
    assert first.id == admission.ids[0] != ""
    assert first.timestamp_unix_ns == third.timestamp_unix_ns > 1_600_000_000_000_000_000
    assert (first.source, third.source) == ("client", "own")
    assert second == complete("2")


def test_ids_that_are_filled_in_follow_each_other_and_cost_less_than_the_rest_of_an_event() -> None:
    events = [Event(event_type="t") if number % 3 else complete(f"own-{number}") for number in range(1_000)]
    data, limits = payload(*events), Limits()
    ids = admit_payload(data, "client", "", limits).ids
    made = [event_id for number, event_id in enumerate(ids) if number % 3]
    assert ids[::3] == [event.id for event in events[::3]]
    assert made == sorted(set(made))
    assert {len(event_id) for event_id in made} == {26}
    check_cost(lambda: admit_payload(data, "client", "", limits), 1_000 * 2e-6)


@pytest.mark.parametrize("sizes", [[0, 1, 130, 20_000], [200] * 3], ids=["of all sizes", "alike"])
def test_the_cluster_of_a_message_is_put_behind_the_bytes_of_each_event(sizes: list[int]) -> None:
    events = [complete(f"{number}", payload=b"x" * size) for number, size in enumerate(sizes)]
    admission = admit(*events, cluster="prod")
    for event in events:
        event.metadata["cluster"] = "prod"
    assert list(admission.batch) == events
    assert EventPayload.FromString(admission.batch.payload).events == events


@pytest.mark.parametrize("size", [b"\x07", b"\x87\x00", b"\x87\x80\x00"])
@pytest.mark.parametrize("around", [b"x", b"\x07\x87", b"\x07" * 300])
def test_a_cluster_that_an_event_names_itself_stays_however_its_length_is_written(size: bytes, around: bytes) -> None:
    name = b"\n" + size + b"cluster"
    entry = name + b"\x12\x03own"
    own = complete("1", payload=around).SerializeToString() + b"*" + bytes([len(entry)]) + entry
    others = [complete(f"{number}", payload=around).SerializeToString() for number in range(2, 6)]
    admission = admit_payload(join_frames([own, *others]), "client", "prod", LIMITS)
    assert [event.metadata["cluster"] for event in admission.batch] == ["own", "prod", "prod", "prod", "prod"]


def test_what_a_message_fills_in_counts_for_no_limit() -> None:
    full = complete("1", metadata={f"key{number}": "x" for number in range(LIMITS.metadata_entries)})
    admission = admit(full, complete("2"), cluster="prod")
    assert (admission.ids, admission.refused) == (["1", "2"], [])
    assert [event.metadata["cluster"] for event in admission.batch] == ["prod", "prod"]


def test_the_cluster_is_put_into_metadata_that_names_none() -> None:
    admission = admit(complete("1"), complete("2", metadata={"cluster": "own"}), cluster="prod")
    assert [event.metadata["cluster"] for event in admission.batch] == ["prod", "own"]


def test_an_id_that_stands_twice_is_refused_the_second_time() -> None:
    admission = admit(complete("1"), complete("2"), complete("1"))
    assert admission.ids == ["1", "2"]
    assert refused(admission) == [("1", Code.DUPLICATE_ID)]
    assert admission.refused[0].message.startswith("events[2].id='1' appears twice")


def test_an_id_that_was_refused_is_not_accepted_for_another_event_of_the_same_message() -> None:
    bad = Event(id="1", source="s", timestamp_unix_ns=1, metadata={"k" * 300: "v"})
    good = Event(id="1", source="s", timestamp_unix_ns=1)
    admission = admit_events([bad, good, Event(id="2", source="s", timestamp_unix_ns=1)], "s", "", Limits())
    assert admission.ids == ["2"]
    assert refused(admission) == [("1", Code.METADATA_LIMIT), ("1", Code.DUPLICATE_ID)]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"a": "", "b": "", "c": "", "d": ""}, "metadata has 4 entries, the limit is 3"),
        ({"k" * 8: ""}, "metadata['kkkkkkkk']: the key has 8 bytes, the limit is 7"),
        ({"key": "v" * 11}, "metadata['key']: the value has 11 bytes, the limit is 10"),
        ({"key": "ä" * 6}, "metadata['key']: the value has 12 bytes, the limit is 10"),
    ],
)
def test_metadata_over_a_limit_costs_its_event_alone(metadata: dict[str, str], reason: str) -> None:
    admission = admit(complete("1"), complete("2", metadata=metadata), complete("3"))
    assert admission.ids == ["1", "3"]
    assert refused(admission) == [("2", Code.METADATA_LIMIT)]
    assert admission.refused[0].message.startswith(f"events[1].{reason}")


def test_a_large_payload_without_any_event_is_an_empty_one() -> None:
    unknown_field = b"\x12\xac\x02" + 300 * b"x"
    admission = admit_payload(unknown_field, "client", "", LIMITS)
    assert (admission.ids, admission.refused) == ([], [])


LONG = "ä" * 9  # 18 bytes
TEXTS = Limits(id_bytes=16, source_bytes=16, event_type_bytes=16, cluster_bytes=16, route_bytes=16, routes=3)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": LONG}, "id='äääääääää': has 18 bytes, the limit is 16; shorten it"),
        ({"source": LONG}, "source='äääääääää': has 18 bytes, the limit is 16; shorten it"),
        ({"event_type": "x" * 17}, "event_type='xxxxxxxxxxxxxxxxx': has 17 bytes, the limit is 16; shorten it"),
        ({"route_to": ["a", "x" * 17]}, "route_to[1]='xxxxxxxxxxxxxxxxx': has 17 bytes, the limit is 16; shorten it"),
        ({"route_to": ["a"] * 4}, "route_to has 4 entries, the limit is 3; name fewer, or none for all emitters"),
        (
            {"id": "y" * 1_000_000},
            "id='yyyyyyyyyyyyyyyyyyyyyyyyyyy...yyyyyyyyyyyyyyyyyyyyyyyyyyyy': has 1000000 bytes, ",
        ),
    ],
)
def test_a_text_over_its_limit_costs_its_event_alone(fields: dict[str, Any], reason: str) -> None:
    events = [complete("1"), complete(**{"event_id": "2", **fields}), complete("3")]
    for number, admission in enumerate([admit(*events, limits=TEXTS), admit_events(events, "client", "", TEXTS)]):
        assert admission.ids == ["1", "3"], number
        assert refused(admission) == [(events[1].id, Code.INVALID_EVENT)]
        assert admission.refused[0].message.startswith(f"events[1].{reason}")
    (refusal,) = admit_event(events[1], "", "", TEXTS, events[1].ByteSize()).refused
    assert refusal.message.startswith(f"events[0].{reason}")


def test_texts_at_their_limits_pass() -> None:
    full = "ä" * 8
    event = complete(full, source=full, event_type=full, route_to=[full] * 3)
    for admission in (admit(event, limits=TEXTS), admit_events([event], full, full, TEXTS)):
        assert (admission.ids, admission.refused) == ([full], [])


@pytest.mark.parametrize(("source", "cluster", "field"), [(LONG, "", "source"), ("", LONG, "cluster")])
def test_what_is_filled_in_is_refused_before_events_are_looked_at(source: str, cluster: str, field: str) -> None:
    ways: list[Callable[[], object]] = [
        lambda: admit_payload(b"\xff", source, cluster, TEXTS),
        lambda: admit_events([Event()], source, cluster, TEXTS),
        lambda: admit_event(Event(), source, cluster, TEXTS, 20),
    ]
    for attempt in ways:
        with pytest.raises(InputError, match=f"{field}='äääääääää': has 18 bytes, the limit is 16") as caught:
            attempt()
        assert caught.value.code is Code.INVALID_EVENT


def test_what_is_filled_in_counts() -> None:
    events = [Event() for _ in range(100)]
    data = payload(*events)
    many = Limits(batch_events=1_000)
    for admission in (
        admit_payload(data, "s" * 200, "c" * 200, many),
        admit_payload(data, "s" * 200, "", many),
        admit_events(events, "s" * 200, "c" * 200, many),
    ):
        assert admission.batch.size <= len(data) + admission.filled_bytes
    assert admit(complete("1")).filled_bytes == 0


def test_events_are_counted_before_any_is_decoded() -> None:
    data = b"\x0a\x00" * 2_000_000
    tracemalloc.start()
    try:
        for cluster in ("", "prod"):
            with pytest.raises(InputError, match="2000000 in one message, the limit is 10000"):
                admit_payload(data, "client", cluster, Limits())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_metadata_at_its_limits_passes() -> None:
    assert refused(admit(complete("1", metadata={"k" * 7: "v" * 10, "b": "", "c": ""}))) == []


def test_more_events_than_the_limit_are_refused_as_a_whole() -> None:
    events = [complete(str(n)) for n in range(9)]
    attempts: list[Callable[[], object]] = [lambda: admit(*events), lambda: admit_events(events, "client", "", LIMITS)]
    for attempt in attempts:
        with pytest.raises(InputError, match="9 in one message, the limit is 8") as caught:
            attempt()
        assert caught.value.code is Code.TOO_MANY_EVENTS


def test_bytes_that_are_no_message_are_refused_as_a_whole() -> None:
    with pytest.raises(InputError, match="not a valid EventPayload") as caught:
        admit_payload(b"\xff\xff\xff", "client", "", LIMITS)
    assert caught.value.code is Code.MALFORMED


def test_a_malformed_event_is_refused_and_the_others_go_on() -> None:
    broken = b"\x0a\x02\xff\xfe"  # an id that is not UTF-8
    data = join_frames([complete("1").SerializeToString(), broken, complete("3").SerializeToString()])
    admission = admit_payload(data, "client", "", LIMITS)
    assert admission.ids == ["1", "3"]
    assert refused(admission) == [("", Code.MALFORMED)]
    assert admission.refused[0].message.startswith("events[1]: not a valid Event")


def test_malformed_events_count_against_the_limit_of_a_message() -> None:
    good = [complete(str(n)).SerializeToString() for n in range(8)]
    with pytest.raises(InputError) as caught:
        admit_payload(join_frames([*good, b"\x0a\x02\xff\xfe"]), "client", "", LIMITS)
    assert caught.value.code is Code.TOO_MANY_EVENTS


def test_the_cluster_of_a_message_counts_against_no_limit_where_an_id_stands_twice() -> None:
    entries = {str(n): "x" for n in range(LIMITS.metadata_entries)}
    admission = admit(complete("1", metadata=entries), complete("1"), cluster="prod")
    assert (admission.ids, refused(admission)) == (["1"], [("1", Code.DUPLICATE_ID)])


TEXT = st.text(max_size=12)
EVENTS = st.builds(
    Event,
    id=st.sampled_from(["", "1", "2", "3", "4", "5" * 257]),
    timestamp_unix_ns=st.sampled_from([0, 5]),
    source=st.sampled_from(["", "own"]),
    metadata=st.dictionaries(TEXT, TEXT, max_size=5),
    payload=st.binary(max_size=40),
)


@settings(deadline=None)
@given(events=st.lists(EVENTS, max_size=8), cluster=st.sampled_from(["", "prod"]))
def test_every_event_is_either_admitted_complete_or_refused_and_both_paths_agree(
    events: list[Event], cluster: str
) -> None:
    fast = admit(*events, cluster=cluster)
    slow = admit_events([Event.FromString(e.SerializeToString()) for e in events], "client", cluster, LIMITS)
    assert refused(fast) == refused(slow)
    assert len(fast.batch) + len(fast.refused) == len(events)
    assert fast.ids == fast.batch.ids
    assert [i for i in fast.ids if len(i) == 1] == [i for i in slow.ids if len(i) == 1]  # the others are new ids
    assert len(set(fast.ids)) == len(fast.ids)
    for event in fast.batch:
        assert event.id
        assert event.timestamp_unix_ns
        assert event.source
        assert not cluster or event.metadata["cluster"]


@given(events=st.lists(EVENTS, max_size=8, unique_by=lambda event: event.id), cluster=st.sampled_from(["", "prod"]))
def test_events_whose_ids_are_known_are_admitted_alike_or_one_by_one(events: list[Event], cluster: str) -> None:
    named = [event for event in events if event.id]
    copies = [Event.FromString(event.SerializeToString()) for event in named]
    quick = admit_named(named, [event.id for event in named], "client", cluster, LIMITS)
    slow = admit_events(copies, "client", cluster, LIMITS)
    if quick is None:
        assert slow.refused or any(event.ByteSize() > LIMITS.safe_event_bytes for event in copies)
        return
    assert (quick.ids, quick.refused, slow.refused) == (slow.ids, [], [])
    for one, other in zip(quick.batch, slow.batch, strict=True):
        one.timestamp_unix_ns = other.timestamp_unix_ns  # where it had none, that of its admission
        assert one == other


@settings(deadline=None)
@given(events=st.lists(EVENTS, max_size=8), cluster=st.sampled_from(["", "prod"]))
def test_events_that_an_ingestor_has_read_are_admitted_as_one_by_one(events: list[Event], cluster: str) -> None:
    copies = [Event.FromString(event.SerializeToString()) for event in events]
    found = asyncio.run(admit_in_turns(events, "client", cluster, LIMITS, []))
    slow = admit_events(copies, "client", cluster, LIMITS)
    assert refused(found) == refused(slow)
    assert [i for i in found.ids if len(i) == 1] == [i for i in slow.ids if len(i) == 1]
    assert found.ids == found.batch.ids
    for one, other in zip(found.batch, slow.batch, strict=True):
        one.timestamp_unix_ns = other.timestamp_unix_ns
        one.id = one.id if len(one.id) == 1 else other.id
        assert one == other


FIELDS = ("id", "timestamp_unix_ns", "source")


@pytest.mark.parametrize("cluster", ["", "prod"])
@given(
    lacks=st.sets(st.sampled_from(FIELDS)),
    other=st.tuples(st.integers(0, 5), st.sampled_from(FIELDS)) | st.none(),
    twice=st.booleans(),
)
def test_what_all_events_of_a_message_lack_is_filled_in_as_one_by_one_and_no_field_stands_twice(
    lacks: set[str], other: tuple[int, str] | None, twice: bool, cluster: str
) -> None:
    """`other` has a field that the others lack, or lacks one that they have."""
    events = [complete(f"id-{n}", source="own", metadata={"k": "v"}, payload=b"x" * 150) for n in range(6)]
    events[5].id = "id-1" if twice else "id-5"
    for place, event in enumerate(events):
        for name in lacks ^ ({other[1]} if other is not None and other[0] == place else set()):
            event.ClearField(name)  # type: ignore[arg-type]
    slow = admit_events([Event.FromString(e.SerializeToString()) for e in events], "client", cluster, LIMITS)
    fast = admit(*events, cluster=cluster)
    assert refused(fast) == refused(slow)
    data = fast.batch.payload
    assert len(data) == EventPayload.FromString(data).ByteSize()
    assert fast.filled_bytes >= len(data) - len(payload(*events))
    assert fast.ids == [event.id for event in EventPayload.FromString(data).events]
    for one, two in zip(EventPayload.FromString(data).events, slow.batch, strict=True):
        if len(two.id) == 26:
            one.id = two.id
        if two.timestamp_unix_ns > 1:
            one.timestamp_unix_ns = two.timestamp_unix_ns
        assert one == two
