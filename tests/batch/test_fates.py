"""A request hears what became of its own events, whoever else's they travel with, and all adds up to the totals."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Aggregator, BufferStrategy, Deduplicator, Event, Filter, Transform
from polku.batch.batch import Batch
from polku.batch.fates import account, merged
from polku.batch.receipt import Answer, Receipt, Turn
from polku.buffer.buffer import Buffer
from polku.contracts import Outcome
from polku.dead_letters import DeadLetters
from polku.errors import UnavailableError
from polku.gateway.admission import Admission, admit_events
from polku.gateway.intake import Intake
from polku.limits import Limits
from polku.link.link import Link, LocalPeer, Push, Receiver, Window
from polku.link.local import LocalLink
from polku.middleware.adapt import as_step
from polku.stage.holding import is_holder
from polku.stage.replicas import Replicas, Reply
from polku.stage.stage import Stage
from polku.v1.gateway_pb2 import Ack, IngestEvent
from tests.buffer.parts import Destination, rest
from tests.support.clock import FakeClock
from tests.support.examples import examples

FIELDS = {
    "rate_limited": "rate_limited_count",
    "sampled_out": "sampled_out_count",
    "deduplicated": "dedup_count",
    "filtered": "filtered_count",
    "overflowed": "buffer_overflow_count",
    "received": "total_received",
    "forwarded": "total_forwarded",
}


def told(ack: Ack) -> dict[str, int]:
    """Return the numbers of an Ack that are not zero."""
    stats = {name: getattr(ack.middleware_stats, field) for name, field in FIELDS.items()}
    return {name: number for name, number in stats.items() if number}


class Drops:
    """Drop the events of one type, for the reason of that name."""

    reads_only = True

    def __init__(self, reason: str) -> None:
        self.name = self.drop_reason = reason

    def process(self, events: list[Event], batch: int) -> Outcome:
        kept = [event for event in events if event.event_type != self.name]
        return Outcome(events if len(kept) == len(events) else kept)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        pass


def die(event: Event) -> None:
    if event.event_type == "dies":
        raise ValueError(event.id)


class Splits:
    """Make three events of one, of which the second is to be filtered; all have its id, or ids of their own."""

    def __init__(self, *, same_id: bool) -> None:
        self._same_id = same_id

    def process(self, events: list[Event]) -> list[Event]:
        made = []
        for event in events:
            made.append(event)
            if event.event_type == "splits":
                made += [self._copy(event, number) for number in (1, 2)]
        return made

    def _copy(self, event: Event, number: int) -> Event:
        copy = Event()
        copy.CopyFrom(event)
        copy.id = event.id if self._same_id else f"{event.id}/{number}"
        copy.event_type = "filtered" if number == 1 else "goes on"
        return copy


class Pipe:
    """Put stages, one for each list of components, behind an intake; from the last to the first they have replicas."""

    def __init__(
        self, *stages: Sequence[object], buffer: Buffer | None = None, replicas: int = 1, window: Window | None = None
    ) -> None:
        self.stages: list[Stage] = []
        self.clock = FakeClock()
        self.letters = DeadLetters()
        self.destination = Destination()
        if buffer is None:
            strategy = BufferStrategy.ring(100_000)
            buffer = Buffer(strategy, {"out": Link("out", LocalPeer(self.destination))}, self.letters)
        self.buffer = buffer
        receiver: Receiver = buffer
        for number, components in enumerate(reversed(stages)):
            holds = any(is_holder(as_step(component, self.clock)) for component in components)
            if replicas > 1 and not holds:
                others = [Link(f"{number}/{n}", LocalPeer(self._stage(components, Reply()))) for n in range(replicas)]
                receiver = Replicas(others, Link(f"{number}", LocalPeer(receiver), window=Window(join_events=0)))
            elif number % 2 and not any(stage._holdings.two_steps for stage in self.stages):
                receiver = self._stage(components, LocalLink(f"{number}", receiver))
            else:
                link = Link(f"{number}", LocalPeer(receiver), window=Window(join_events=0))
                two_steps = any(stage._holdings.two_steps for stage in self.stages)
                receiver = self._stage(components, link, two_steps=two_steps)
        link = Link("ingest", LocalPeer(receiver), window=window or Window(1, gather_events=512, gather_turns=8))
        self.intake = Intake({}, None, link, Limits())

    def _stage(self, components: Sequence[object], link: object, *, two_steps: bool = False) -> Stage:
        steps = [as_step(component, self.clock) for component in components]
        stage = Stage(steps, link, self.letters, self.clock, two_steps=two_steps)  # type: ignore[arg-type]
        self.stages.append(stage)
        return stage

    async def start(self) -> None:
        self.buffer.start()
        for stage in self.stages:
            await stage.start()

    async def close(self) -> None:
        await self.intake.close()
        for stage in self.stages:
            await stage.close()
        await self.buffer.close()

    @property
    def totals(self) -> dict[str, int]:
        return {name: number for name, number in self.intake.counts._asdict().items() if number}


def events(*kinds: str, request: str = "") -> list[Event]:
    return [Event(id=f"{request}{n}", event_type=kind, source="s") for n, kind in enumerate(kinds)]


def message(events: Sequence[Event]) -> bytes:
    request = IngestEvent(source="s")
    request.events.events.extend(events)
    return request.SerializeToString()


def admission(events: Sequence[Event]) -> Admission:
    return admit_events(events, "s", "", Limits())


def total(acks: Sequence[Ack]) -> dict[str, int]:
    numbers: Counter[str] = Counter()
    for ack in acks:
        numbers.update(told(ack))
    return dict(numbers)


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


async def test_an_event_that_is_held_for_several_requests_and_fails_counts_for_none() -> None:
    pipe = Pipe([Aggregator(2, within=60, key=lambda event: 0)], [Transform(die)])
    await pipe.start()
    calls = [asyncio.ensure_future(pipe.intake.event(message(events("dies", request=f"{n}")))) for n in range(2)]
    for ack in await asyncio.gather(*calls):
        assert (told(ack), [error.code for error in ack.errors]) == ({"received": 1}, ["MIDDLEWARE_ERROR"])
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
    settled = pipe.intake._sender._on_answer

    def close(size: int, count: int, came: int, answer: asyncio.Future[Receipt]) -> None:
        seen.append(answer.result())
        settled(size, count, came, answer)

    pipe.intake._sender._on_answer = close  # type: ignore[method-assign]
    request = admission(events("filtered", "a"))
    ack = await (await pipe.intake.take(request, 10))
    assert (told(ack), [receipt.fates for receipt in seen]) == ({}, [()])
    assert not any(batch.counted for batch in pipe.destination.batches)
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
    pipe.intake._sender.link = link
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
    pipe.intake._sender.link = Link("ingest", Deadly(pipe.stages[0]), retry_delay=lambda attempt: 0.0)
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

    pipe.intake._sender.link = Link("ingest", LocalPeer(Broken()))
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
    pipe.intake._sender.link = Link("ingest", LocalPeer(stage))
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
