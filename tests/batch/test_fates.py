"""A request hears what became of its own events, whoever else's they travel with, and all adds up to the totals."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Aggregator, BufferStrategy, Event, Filter, Transform
from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt, Turn
from polku.buffer.buffer import Buffer
from polku.dead_letters import DeadLetters
from polku.errors import UnavailableError
from polku.link.link import Link, LocalPeer, Push, Receiver
from polku.link.local import LocalLink
from polku.stage.stage import Stage
from polku.v1.gateway_pb2 import Ack, IngestEvent
from tests.batch.pipes import Drops, Pipe, Splits, admission, events, told, total
from tests.buffer.parts import Destination, rest
from tests.support.examples import examples


def die(event: Event) -> None:
    if event.event_type == "dies":
        raise ValueError(event.id)


def message(events: Sequence[Event]) -> bytes:
    request = IngestEvent(source="s")
    request.events.events.extend(events)
    return request.SerializeToString()


def expected(kinds: Sequence[str], order: Sequence[str]) -> dict[str, int]:
    """Return what is to be told of the events of a request, of these fates, from steps in this order."""
    filtered = order.index("splits") < order.index("filtered")
    numbers = Counter({"received": len(kinds)})
    for kind in kinds:
        if kind in ("rate_limited", "sampled_out", "deduplicated", "filtered"):
            numbers[kind] += 1
        elif kind == "splits":
            numbers["filtered"] += filtered
            numbers["forwarded"] += 3 - filtered
        elif kind == "goes on":
            numbers["forwarded"] += 1
    return {name: number for name, number in numbers.items() if number}


KINDS = ("goes on", "rate_limited", "sampled_out", "deduplicated", "filtered", "dies", "splits")

STEPS: dict[str, Callable[[], object]] = {
    "rate_limited": lambda: Drops("rate_limited"),
    "sampled_out": lambda: Drops("sampled_out"),
    "deduplicated": lambda: Drops("deduplicated"),
    "filtered": lambda: Filter(lambda event: event.event_type != "filtered"),
    "dies": lambda: Transform(die),
    "splits": lambda: Splits(same_id=True),
}


@examples(60)
@given(
    requests=st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8), min_size=1, max_size=8),
    order=st.permutations(list(STEPS)),
    cuts=st.sets(st.integers(1, 5), max_size=3),
    replicas=st.sampled_from([1, 1, 3]),
    together=st.integers(0, 8),
)
def test_each_request_hears_of_its_own_events_and_all_add_up_to_the_totals(
    requests: list[list[str]], order: list[str], cuts: set[int], replicas: int, together: int
) -> None:
    async def check() -> None:
        bounds = [0, *sorted(cuts), len(order)]
        stages = [[STEPS[name]() for name in order[a:b]] for a, b in pairwise(bounds)]
        pipe = Pipe(*stages, replicas=replicas)
        await pipe.start()
        lists = [events(*kinds, request=f"{n}-") for n, kinds in enumerate(requests)]
        calls: list[asyncio.Future[list[Ack]]] = []
        if together:
            calls.append(asyncio.ensure_future(pipe.intake.together([admission(e) for e in lists[:together]], 100)))
        calls += [asyncio.ensure_future(one(pipe.intake.event(message(own)))) for own in lists[together:]]
        acks = [ack for answers in await asyncio.gather(*calls) for ack in answers]
        assert [told(ack) for ack in acks] == [expected(kinds, order) for kinds in requests]
        acks.append(await pipe.intake.event(message(events("goes on"))))  # the latest receipt has the totals
        assert pipe.totals == total(acks)
        await pipe.close()

    async def one(call: Awaitable[Ack]) -> list[Ack]:
        return [await call]

    asyncio.run(check())


async def test_an_event_that_is_held_for_several_requests_and_fails_counts_for_none() -> None:
    pipe = Pipe([Aggregator(2, within=60, key=lambda event: 0)], [Transform(die)])
    await pipe.start()
    calls = [asyncio.ensure_future(pipe.intake.event(message(events("dies", request=f"{n}")))) for n in range(2)]
    for ack in await asyncio.gather(*calls):
        assert (told(ack), [error.code for error in ack.errors]) == ({"received": 1}, ["MIDDLEWARE_ERROR"])
    await pipe.close()


class Deadly:
    """Be a peer that dies of some events."""

    def __init__(self, receiver: Receiver) -> None:
        self._local = LocalPeer(receiver)
        self._turns: set[tuple[str, int]] = set()

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        turn = (push.link, push.seq)
        if push.alone and turn not in self._turns:
            self._turns.add(turn)
            return Turn(alone=True)
        self._turns.discard(turn)
        if any(event.event_type == "kills" for event in batch):
            raise UnavailableError("it died", died=True)
        return await self._local.push(push, batch)

    async def flush(self, everything: bool) -> None:
        pass


async def test_an_event_that_kills_was_not_forwarded_and_its_neighbours_keep_their_numbers() -> None:
    pipe = Pipe([Drops("filtered")])
    link = Link("ingest", Deadly(pipe.stages[0]), retry_delay=lambda attempt: 0.0)
    pipe.intake.sender.link = link
    await pipe.start()
    kinds = [("a", "kills", "filtered"), ("filtered", "a", "a"), ("kills",)]
    acks = await pipe.intake.together([admission(events(*kind, request=f"{n}")) for n, kind in enumerate(kinds)], 10)
    assert [told(ack) for ack in acks] == [
        {"received": 3, "filtered": 1, "forwarded": 1},
        {"received": 3, "filtered": 1, "forwarded": 2},
        {"received": 1},
    ]
    await pipe.close()


async def test_an_event_that_kills_takes_no_counter_back() -> None:
    pipe = Pipe([Drops("filtered")])
    pipe.intake.sender.link = Link("ingest", Deadly(pipe.stages[0]), retry_delay=lambda attempt: 0.0)
    await pipe.start()
    before = await pipe.intake.event(message(events("a", "filtered", request="x")))
    for number, kinds in enumerate((("kills",), ("a", "kills"))):
        ack = await pipe.intake.event(message(events(*kinds, request=f"{number}")))
        assert ack.buffer_capacity == before.buffer_capacity
        assert pipe.totals == {"received": 3 + 2 * number, "filtered": 1, "forwarded": 1 + number}
    await pipe.close()


class Broken:
    async def push(self, batch: Batch) -> Receipt:
        raise ValueError("broken")


async def test_where_nobody_answers_events_were_received_and_nothing_else() -> None:
    pipe = Pipe([Drops("filtered")])

    pipe.intake.sender.link = Link("ingest", LocalPeer(Broken()))
    acks = await pipe.intake.together([admission(events("a", request=f"{n}")) for n in range(2)], 10)
    assert [told(ack) for ack in acks] == [{"received": 1}, {"received": 1}]
    await pipe.close()


class Odd:
    """Answer with fates of more events than were pushed, as of a batch that middleware made another one of."""

    async def push(self, batch: Batch) -> Receipt:
        return Receipt(fates=((0, "overflowed", 1), (1, "overflowed", 1), (7, "overflowed", 1)))


@pytest.mark.parametrize("near", [True, False])
async def test_fates_of_events_that_are_not_in_the_batch_are_left_out(*, near: bool) -> None:
    pipe = Pipe([])
    link = LocalLink("next", Odd()) if near else Link("next", LocalPeer(Odd()))
    stage = Stage([Drops("filtered")], link, pipe.letters, pipe.clock)
    pipe.intake.sender.link = Link("ingest", LocalPeer(stage))
    acks = await pipe.intake.together([admission(events(*kinds)) for kinds in (("filtered", "a"), ("a",))], 10)
    assert [told(ack) for ack in acks] == [
        {"received": 2, "filtered": 1, "forwarded": 1, "overflowed": 1},
        {"received": 1, "forwarded": 1, "overflowed": 1},
    ]
    await pipe.close()


def full(*emitters: str, overflow: str = "drop_newest", await_delivery: bool = False, capacity: int = 4) -> Buffer:
    """Return a buffer with room for that many events, whose emitters take nothing."""
    links = {name: Link(name, LocalPeer(Destination(is_open=False))) for name in emitters}
    strategy = BufferStrategy.ring(capacity, overflow=overflow)
    return Buffer(strategy, links, DeadLetters(), await_delivery=await_delivery)


async def test_what_a_full_buffer_drops_counts_for_its_own_request_once_for_each_emitter() -> None:
    pipe = Pipe([Drops("filtered")], buffer=full("a", "b"))
    acks = await pipe.intake.together(
        [
            admission(events(*kinds, request=f"{n}"))
            for n, kinds in enumerate((("a", "filtered", "a"), ("a", "a", "a")))
        ],
        10,
    )
    assert [told(ack) for ack in acks] == [
        {"received": 3, "filtered": 1, "forwarded": 2},
        {"received": 3, "forwarded": 3, "overflowed": 2},
    ]
    assert [error.code for error in acks[1].errors] == ["BUFFER_FULL"]
    assert total(acks) == pipe.totals
    await pipe.intake.close()


async def test_what_is_dropped_as_the_oldest_counts_for_its_request_where_that_waits_for_the_delivery() -> None:
    pipe = Pipe(buffer=full("a", overflow="drop_oldest", await_delivery=True))
    calls = []
    for number in range(3):
        calls.append(asyncio.ensure_future(pipe.intake.event(message(events("a", "a", request=f"{number}")))))
        await rest()
    assert [call.done() for call in calls] == [True, False, False]
    assert told(await calls[0]) == {"received": 2, "forwarded": 2, "overflowed": 2}
    for call in calls[1:]:
        call.cancel()
    await pipe.intake.close()
