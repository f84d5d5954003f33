from typing import Any

import pytest

from polku.contracts import Follows
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware import Deduplicator
from tests.middleware.harness import events, ids, work
from tests.support.clock import FakeClock

NONE: frozenset[int] = frozenset()


async def test_a_settled_id_is_dropped_and_follows_nobody() -> None:
    step = Deduplicator().build(FakeClock())
    await work(step, events("a"), 1)
    step.settled(1, NONE)
    outcome = await work(step, events("a", "b"), 2)
    assert ids(outcome) == ["b"]
    assert list(outcome.follows) == []
    assert step.drop_reason == "deduplicated"


async def test_a_duplicate_of_an_open_id_follows_the_batch_of_the_first() -> None:
    step = Deduplicator().build(FakeClock())
    await work(step, events("a", "b"), 1)
    outcome = await work(step, events("b", "c"), 2)
    assert ids(outcome) == ["c"]
    assert list(outcome.follows) == [Follows(0, 1, 1)]


async def test_a_duplicate_within_one_batch_follows_its_own_batch() -> None:
    outcome = await work(Deduplicator().build(FakeClock()), events("a", "a", "b"), 7)
    assert ids(outcome) == ["a", "b"]
    assert list(outcome.follows) == [Follows(1, 7, 0)]


async def test_ids_of_different_tenants_are_different_ids() -> None:
    step = Deduplicator(per="tenant").build(FakeClock())
    given = [*events("a", "a", "a"), Event(), Event()]
    given[1].metadata["tenant"], given[2].metadata["tenant"] = "x", "x"
    outcome = await work(step, given, 1)
    assert outcome.events == [given[0], given[1], given[3], given[4]]
    assert list(outcome.follows) == [Follows(2, 1, 1)]
    with pytest.raises(PlanError, match=r"Deduplicator\(per=''\): must be the name of a metadata entry"):
        Deduplicator(per="")


async def test_a_refused_id_gets_through_when_it_is_sent_again() -> None:
    step = Deduplicator().build(FakeClock())
    await work(step, events("a", "b"), 1)
    step.settled(1, frozenset({0}))
    assert ids(await work(step, events("a", "b"), 2)) == ["a"]


async def test_an_id_counts_again_after_its_time() -> None:
    clock = FakeClock()
    step = Deduplicator(ttl=10).build(clock)
    await work(step, events("a"), 1)
    clock.advance(100)  # still open: the time runs from its settling
    step.settled(1, NONE)
    clock.advance(9.9)
    assert ids(await work(step, events("a"), 2)) == []
    clock.advance(0.2)
    assert ids(await work(step, events("a"), 3)) == ["a"]


async def test_the_oldest_ids_are_forgotten_over_the_limit() -> None:
    step = Deduplicator(max_ids=2).build(FakeClock())
    for number, event_id in enumerate("abc", 1):
        await work(step, events(event_id), number)
        step.settled(number, NONE)
    assert ids(await work(step, events("a", "b", "c"), 4)) == ["a"]


async def test_fresh_batches_come_back_as_the_same_list() -> None:
    batch = events("a", "b")
    assert (await work(Deduplicator().build(FakeClock()), batch)).events is batch


async def test_events_without_an_id_pass() -> None:
    batch = events("a", "b", "c")
    for event in batch:
        event.ClearField("id")
    step = Deduplicator().build(FakeClock())
    assert len((await work(step, batch, 1)).events) == 3
    step.settled(1, NONE)
    assert len((await work(step, batch, 2)).events) == 3


def test_settling_a_batch_that_was_never_seen_is_nothing() -> None:
    Deduplicator().build(FakeClock()).settled(99, NONE)


@pytest.mark.parametrize("arguments", [{"ttl": 0}, {"max_ids": 0}, {"max_ids": 1.5}])
def test_wrong_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"Deduplicator\("):
        Deduplicator(**arguments)
