"""What became of each event is counted once: of copies, merged events, and events that appear twice."""

from __future__ import annotations

import asyncio

import pytest

from polku import Aggregator, Deduplicator, Event
from polku.batch.fates import account, merged
from polku.batch.receipt import Receipt
from polku.contracts import Outcome
from tests.batch.pipes import Drops, Pipe, Splits, admission, events, told, total


async def test_of_an_aggregate_the_request_of_its_first_event_hears_that_it_was_forwarded() -> None:
    pipe = Pipe([Aggregator(3, within=60, key=lambda event: 0)], [Drops("filtered")])
    await pipe.start()
    first, second = await pipe.intake.together([admission(events("a", "a")), admission(events("a"))], 10)
    assert (told(first), told(second)) == ({"received": 2, "forwarded": 1}, {"received": 1})
    pairs = [admission(events("filtered", request="x")), admission(events("a", "a", "a", "a", "a", request="y"))]
    first, second = await pipe.intake.together(pairs, 10)
    assert told(first) == {"received": 1, "filtered": 1}  # the aggregate that was filtered has the type of its first
    assert told(second) == {"received": 5, "forwarded": 1}
    assert pipe.totals == {"received": 9, "forwarded": 2, "filtered": 1}
    await pipe.close()


async def test_a_duplicate_counts_for_the_request_that_brought_it() -> None:
    pipe = Pipe([Deduplicator()])
    await pipe.start()
    three = [admission([Event(id=i, source="s") for i in ids]) for ids in (("a", "b"), ("b", "c"), ("a",))]
    acks = await pipe.intake.together(three, 10)
    assert [told(ack) for ack in acks] == [
        {"received": 2, "forwarded": 2},
        {"received": 2, "forwarded": 1, "deduplicated": 1},
        {"received": 1, "deduplicated": 1},
    ]
    await pipe.close()


async def test_copies_with_new_ids_count_for_the_event_that_they_follow() -> None:
    pipe = Pipe([Splits(same_id=False)])
    await pipe.start()
    both = [admission(events("a", "splits", "a", request="x")), admission(events("a", "a", request="y"))]
    first, second = await pipe.intake.together(both, 10)
    assert (told(first), told(second)) == ({"received": 3, "forwarded": 5}, {"received": 2, "forwarded": 2})
    await pipe.close()


class Merges:
    def process(self, events: list[Event]) -> list[Event]:
        return [Event(id="merged", source="s", event_type="t")]


@pytest.mark.parametrize("replicas", [1, 2])
async def test_what_code_makes_of_a_whole_batch_adds_up_and_is_never_negative(replicas: int) -> None:
    pipe = Pipe([Merges()], [Drops("t")], replicas=replicas)
    for stage in pipe.stages:
        for step in stage._steps:
            step.drop_reason = "filtered"
    await pipe.start()
    acks = await pipe.intake.together([admission(events("a", "a", request=f"{n}")) for n in range(2)], 10)
    assert total(acks) == pipe.totals == {"received": 4, "filtered": 4}
    assert [told(ack) for ack in acks] == [{"received": 2, "filtered": 2}] * 2
    await pipe.close()


def test_an_object_that_stands_twice_counts_twice() -> None:
    one, other = events("a", "b")
    kept = account([one, one, other], Outcome([one, one]), "filtered")
    assert (kept.owners, kept.gone, list(kept.trace_back([(1, "filtered", 1)]))) == (
        [0, 1],
        1,
        [(2, "forwarded", -1), (2, "filtered", 1), (1, "filtered", 1)],
    )
    assert account([one, one], Outcome([one]), "filtered").gone == 1


def test_a_new_event_of_the_id_of_a_given_one_counts_for_that_and_others_for_those_that_are_left() -> None:
    given = events("a", "b", "c")
    made = [Event(id="new"), Event(id="0"), Event(id="1"), Event(id="1"), Event(id="newer")]
    assert account(given, Outcome(made), "filtered").owners == [2, 0, 1, 1, 1]


def test_more_events_than_parts_count_for_the_first_part() -> None:
    assert (merged(3, 2).owners, merged(3, 2).own) == ([0, 1, 0], [(0, "forwarded", 1)])


async def test_a_batch_that_nobody_asks_about_has_no_fates() -> None:
    pipe = Pipe([Drops("filtered")])
    await pipe.start()
    seen: list[Receipt] = []
    settled = pipe.intake.sender._on_answer

    def close(size: int, count: int, came: int, answer: asyncio.Future[Receipt]) -> None:
        seen.append(answer.result())
        settled(size, count, came, answer)

    pipe.intake.sender._on_answer = close  # type: ignore[method-assign]
    request = admission(events("filtered", "a"))
    ack = await (await pipe.intake.take(request, 10))
    assert (told(ack), [receipt.fates for receipt in seen]) == ({}, [()])
    assert not any(batch.wants_fates for batch in pipe.destination.batches)
    await pipe.close()
