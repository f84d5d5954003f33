"""A batch is bytes, events or both, and says the same in each form."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from polku import Batch, Event
from polku.batch.batch import Header, Identity, join
from polku.batch.frames import has_routes
from polku.v1.gateway_pb2 import EventPayload

EVENTS = st.lists(
    st.builds(
        Event,
        id=st.text(max_size=5),
        payload=st.binary(max_size=20),
        route_to=st.sampled_from([(), ("a",), ("a", "b")]),
        metadata=st.dictionaries(st.just("key"), st.text(max_size=3)),
    ),
    max_size=8,
)
FORMS = st.sampled_from(["events", "bytes", "message", "both"])


def build(events: Sequence[Event], form: str = "events") -> Batch:
    message = EventPayload(events=events)
    data = message.SerializeToString()
    if form == "bytes":
        return Batch.from_wire(Header(len(events), None, None, 7, "trace"), data)
    if form == "message":
        return Batch.from_message(message)
    if form == "both":
        return Batch.from_message(message, data)
    return Batch.from_events([Event.FromString(event.SerializeToString()) for event in events])


def ids(*names: str) -> list[Event]:
    return [Event(id=name) for name in names]


@given(events=EVENTS, form=FORMS)
def test_every_form_gives_the_same_events_and_bytes(events: list[Event], form: str) -> None:
    batch = build(events, form)
    assert len(batch) == len(events)
    assert EventPayload.FromString(batch.payload) == EventPayload(events=events)
    assert list(batch) == events
    assert batch.ids == [event.id for event in events]
    assert batch.size == len(batch.payload) == batch.size_hint


@given(parts=st.lists(st.tuples(EVENTS, FORMS), min_size=1, max_size=5), looked_at=st.booleans())
def test_joined_batches_have_all_events_in_order(parts: list[tuple[list[Event], str]], looked_at: bool) -> None:
    batches = [build(events, form) for events, form in parts]
    everything = [event for events, _ in parts for event in events]
    if looked_at:
        assert [event for batch in batches for event in batch] == everything
    joined = join(batches)
    assert len(joined) == len(everything)
    assert Batch.from_wire(joined.header, joined.payload).events == everything
    assert joined.events == everything


@given(events=EVENTS, form=FORMS, at=st.integers(0, 8))
def test_both_halves_of_a_split_batch_make_the_whole(events: list[Event], form: str, at: int) -> None:
    first, second = build(events, form).split(at)
    assert (first.events, second.events) == (events[:at], events[at:])
    assert (len(first), len(second)) == (len(events[:at]), len(events[at:]))


@given(events=EVENTS, form=FORMS)
def test_runs_are_the_neighbours_with_the_same_routes_and_make_the_whole(events: list[Event], form: str) -> None:
    runs = build(events, form).runs()
    assert [event for run in runs for event in run] == events
    assert all(tuple(event.route_to) == run.routes for run in runs for event in run)
    assert all(one.routes != other.routes for one, other in pairwise(runs))


@given(events=EVENTS, form=FORMS)
def test_a_change_in_place_is_in_the_bytes_of_the_batch_that_replaces_it(events: list[Event], form: str) -> None:
    batch = build(events, form)
    same = batch.events
    for event in same:
        event.source = "changed"
    changed = batch.replace(same)
    assert [event.source for event in EventPayload.FromString(changed.payload).events] == ["changed"] * len(events)


@given(events=EVENTS, form=FORMS)
def test_other_events_replace_those_that_came(events: list[Event], form: str) -> None:
    batch = build(events, form)
    fewer = [*batch.events[1:], Event(id="new")]
    replaced = batch.replace(fewer)
    assert len(replaced) == len(fewer)
    assert EventPayload.FromString(replaced.payload) == EventPayload(events=fewer)


def test_a_batch_that_nobody_changed_keeps_its_bytes() -> None:
    data = EventPayload(events=ids("1", "2")).SerializeToString()
    batch = Batch.from_wire(Header(2, None, None, 0, ""), data)
    assert batch.ids == ["1", "2"]
    assert batch.payload is batch.sealed().payload is batch.unidentified().payload is data


def test_a_batch_is_pickled_as_its_header_and_its_bytes() -> None:
    batch = build(ids("1", "2"))
    batch.identity, batch.routes, batch.enqueued_ns, batch.trace = Identity("link", 1, 2), ("a",), 3, "trace"
    other = pickle.loads(pickle.dumps(batch))
    assert other.header == batch.header == Header(2, Identity("link", 1, 2), ("a",), 3, "trace")
    assert other.events == batch.events


def test_a_batch_without_identity_keeps_all_else() -> None:
    batch = build(ids("1"), "bytes")
    batch.identity = Identity("link", 1, 2)
    assert batch.unidentified().header == batch.header._replace(identity=None)
    assert batch.identity == Identity("link", 1, 2)


def test_joined_batches_have_the_first_one_s_age_and_trace_and_no_identity() -> None:
    first, second = build(ids("1"), "bytes"), build(ids("2"))
    first.identity = second.identity = Identity("link", 1, 1)
    assert join([first, second]).header == Header(2, None, None, 7, "trace")
    assert join([first]) is first


def test_joined_batches_have_routes_where_all_agree() -> None:
    def routed(*routes: tuple[str, ...] | None) -> Batch:
        return join([Batch.from_events(ids("1"), routes=one) for one in routes])

    assert routed(("a",), ("a",)).routes == ("a",)
    assert routed((), ()).routes == ()
    assert routed(("a",), ()).routes is None
    assert routed(("a",), None).routes is None


def test_selected_events_keep_their_order_and_header() -> None:
    batch = build(ids("1", "2", "3"), "bytes")
    assert batch.select([0, 2]).ids == ["1", "3"]
    assert batch.select([0, 2]).header == batch.header._replace(events=2)


def test_routes_are_set_where_all_events_have_the_same() -> None:
    for routes, expected in (
        ([(), ()], ()),
        ([("a",), ("a",)], ("a",)),
        ([("a",), ()], None),
        ([("a", "b"), ("b", "a")], None),
    ):
        batch = Batch.from_events([Event(route_to=one) for one in routes])
        batch.read_routes()
        assert batch.routes == expected


@given(st.lists(st.builds(Event, id=st.text(), payload=st.binary(), route_to=st.lists(st.text(), max_size=2))))
def test_routes_are_found_in_bytes_wherever_they_stand(events: list[Event]) -> None:
    payload = Batch.from_events(events).payload
    assert has_routes(payload) == any(event.route_to for event in events)


def test_a_colon_is_no_route() -> None:
    assert not has_routes(Batch.from_events([Event(id=":", payload=b":::", metadata={"at": "12:30"})]).payload)


@given(form=FORMS)
def test_a_batch_whose_events_are_counted_stays_one_whatever_is_made_of_it(form: str) -> None:
    batch = build(ids("1", "2"), form)
    batch.wants_fates = True
    made = [batch.sealed(), batch.replace(ids("3")), *batch.split(1), batch.select([1]), *batch.runs()]
    assert all(one.wants_fates for one in [*made, pickle.loads(pickle.dumps(batch)), join([build(ids("0")), batch])])
    assert not join([build(ids("0")), build(ids("1"))]).wants_fates
