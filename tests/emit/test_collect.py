"""Calls of an emitter that are filled from many batches."""

from __future__ import annotations

import asyncio

from polku import Batch, BufferStrategy, Event, Failure
from polku.batch.receipt import Accepted, Receipt
from polku.buffer.buffer import Buffer
from polku.contracts import Collecting, Collector
from polku.dead_letters import DeadLetters
from polku.emit.collect import CollectingDelivery
from polku.emit.delivery import CollectionStatistics
from polku.link.link import Link, LocalPeer, Window

LIMITS = Collecting(max_events=10, max_bytes=10_000, max_age=3600.0, max_groups=100, max_held_bytes=1_000_000)


class Store:
    """Take groups by source while its gate is open."""

    def __init__(self, limits: Collecting = LIMITS, *, refuses: str = "") -> None:
        self.collecting = limits
        self.calls: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuses = refuses
        self.concurrency = 100

    def group(self, event: Event) -> str:
        if not event.source:
            raise ValueError("no source")
        return event.source

    async def emit(self, batch: Batch) -> list[Failure]:
        await self.gate.wait()
        assert len({event.source for event in batch}) == 1
        self.calls.append(batch.ids)
        return [Failure(i, "refused", retryable=False) for i in batch.ids if i == self.refuses]


def delivery(store: Store) -> CollectingDelivery:
    assert isinstance(store, Collector)
    return CollectingDelivery("store", store, store)


def batch(first: int, count: int, sources: str = "a", payload: bytes = b"") -> Batch:
    events = [
        Event(id=f"{n:05d}", source=sources[n % len(sources)], payload=payload) for n in range(first, first + count)
    ]
    return Batch.from_events(events)


async def push(collected: CollectingDelivery, given: Batch) -> asyncio.Future[Receipt]:
    answer = await collected.push(given)
    assert isinstance(answer, Accepted)
    return asyncio.ensure_future(answer.outcome())


async def rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_group_is_filled_from_many_batches_and_answers_them_when_it_is_delivered() -> None:
    store = Store()
    collected = delivery(store)
    store.gate.clear()
    answers = [await push(collected, batch(start, 4)) for start in (0, 4, 8)]
    await rest()
    assert [answer.done() for answer in answers] == [False, False, False]
    store.gate.set()
    await rest()
    assert store.calls == [[f"{n:05d}" for n in range(10)]]
    assert [answer.done() for answer in answers] == [True, True, False]  # the third has two events in the next group
    await collected.flush(True)
    assert await answers[2] == Receipt()
    assert store.calls[1:] == [["00010", "00011"]]
    assert collected.statistics().collection == CollectionStatistics(0, 0, 0, 1, 3600.0)


async def test_groups_are_cut_at_the_same_events_however_the_batches_come() -> None:
    cuts = []
    for sizes in ([25], [1] * 25, [7, 7, 11]):
        store = Store(LIMITS._replace(max_bytes=120))
        collected = delivery(store)
        start = 0
        for size in sizes:
            await push(collected, batch(start, size))
            start += size
        await collected.flush(True)
        await rest()
        cuts.append(store.calls)
    assert cuts[0] == cuts[1] == cuts[2]
    assert len(cuts[0]) > 2


async def test_an_event_larger_than_a_group_is_a_group() -> None:
    store = Store()
    collected = delivery(store)
    await push(collected, batch(0, 3, payload=b"." * 20_000))
    await collected.flush(True)
    await rest()
    assert store.calls == [["00000"], ["00001"], ["00002"]]


async def test_a_group_is_complete_by_age() -> None:
    store = Store(LIMITS._replace(max_age=0.05))
    collected = delivery(store)
    assert await (await push(collected, batch(0, 3))) == Receipt()
    assert store.calls == [["00000", "00001", "00002"]]


async def test_a_refused_event_is_the_business_of_its_own_batch_alone() -> None:
    store = Store(refuses="00003")
    collected = delivery(store)
    answers = [await push(collected, batch(start, 2)) for start in (0, 2, 4)]
    await collected.flush(True)
    refused = [[refusal.event_id for refusal in (await answer).refused] for answer in answers]
    assert refused == [[], ["00003"], []]
    seen = collected.statistics()
    assert (seen.confirmed, seen.failed) == (5, 1)


async def test_an_event_without_a_group_is_refused_with_the_reason() -> None:
    store = Store()
    collected = delivery(store)
    answer = await push(collected, Batch.from_events([Event(id="bad"), Event(id="good", source="a")]))
    await collected.flush(True)
    (refusal,) = (await answer).refused
    assert refusal[:1] == ("bad",)
    assert refusal.message == "no source"
    assert store.calls == [["good"]]
    alone = await push(collected, Batch.from_events([Event(id="bad")]))
    assert [r.event_id for r in (await alone).refused] == ["bad"]


async def test_the_oldest_group_is_completed_where_there_would_be_too_many() -> None:
    store = Store(LIMITS._replace(max_groups=3))
    collected = delivery(store)
    await push(collected, batch(0, 10, "abcde"))
    await rest()
    collection = collected.statistics().collection
    assert collection is not None
    assert (collection.groups, collection.events) == (3, 10)
    assert collection.early == len(store.calls) > 0


async def test_what_is_held_is_bounded_whatever_the_number_of_groups() -> None:
    size = batch(0, 100, payload=b"." * 100).size
    store = Store(LIMITS._replace(max_events=10_000, max_bytes=1_000_000, max_held_bytes=5 * size))
    collected = delivery(store)
    keys = "".join(chr(0x4E00 + n) for n in range(100))
    for start in range(0, 5_000, 100):
        await asyncio.wait_for(push(collected, batch(start, 100, keys, b"." * 100)), 30)
        held = collected.statistics().collection
        assert held is not None
        assert held.bytes <= 5 * size
    await collected.flush(True)
    await rest()
    assert sorted(i for call in store.calls for i in call) == [f"{n:05d}" for n in range(5_000)]
    assert sum(map(len, store.calls)) / len(store.calls) > 1.5


async def test_a_full_collector_makes_its_sender_wait_until_the_destination_takes_something() -> None:
    size = batch(0, 5).size
    store = Store(LIMITS._replace(max_held_bytes=2 * size))
    collected = delivery(store)
    store.gate.clear()
    await push(collected, batch(0, 5))
    await push(collected, batch(5, 5))
    third = asyncio.ensure_future(push(collected, batch(10, 5)))
    await rest()
    assert not third.done()
    store.gate.set()
    await asyncio.wait_for(third, 30)


async def test_close_gives_up_what_is_held() -> None:
    store = Store()
    collected = delivery(store)
    answer = await push(collected, batch(0, 5))
    await collected.close()
    await rest()
    assert not answer.done()
    assert store.calls == []
    answer.cancel()


async def piped(store: Store, strategy: BufferStrategy) -> Buffer:
    link = Link("buffer/store", LocalPeer(delivery(store)), window=Window(join_events=0))
    buffer = Buffer(strategy, {"store": link}, DeadLetters())
    await buffer.open()
    buffer.start()
    return buffer


async def push_all(buffer: Buffer, total: int, size: int) -> None:
    for start in range(0, total, size):
        answer = await buffer.push(batch(start, size))
        assert isinstance(answer, Receipt)
        assert answer.refused == ()


async def test_a_buffer_smaller_than_a_group_makes_smaller_groups_and_no_stop() -> None:
    store = Store(LIMITS._replace(max_events=1_000_000, max_bytes=1 << 30, max_held_bytes=1 << 30))
    for strategy in (BufferStrategy.ring(100), BufferStrategy.ring(100, overflow="drop_newest")):
        store.calls.clear()
        buffer = await piped(store, strategy)
        for start in range(0, 2_000, 10):
            await asyncio.wait_for(buffer.push(batch(start, 10)), 30)
            async with asyncio.timeout(30):
                while buffer.statistics().outlets["store"].lag > 70:  # noqa: ASYNC110 - statistics wake nobody
                    await asyncio.sleep(0.001)
        await asyncio.wait_for(buffer.drain(), 30)
        assert sorted(i for call in store.calls for i in call) == [f"{n:05d}" for n in range(2_000)]
        assert len(store.calls) <= 2_000 / 25
        await buffer.close()


async def test_a_batch_that_needs_the_whole_buffer_gets_it() -> None:
    store = Store(LIMITS._replace(max_events=1_000_000))
    buffer = await piped(store, BufferStrategy.ring(100))
    await push_all(buffer, 30, 30)
    await asyncio.wait_for(buffer.push(batch(30, 100)), 30)
    await asyncio.wait_for(buffer.drain(), 30)
    assert sum(map(len, store.calls)) == 130
    await buffer.close()


async def test_drain_completes_groups_only_when_all_that_waits_is_in_them() -> None:
    store = Store(LIMITS._replace(max_events=1_000))
    buffer = await piped(store, BufferStrategy.ring(10_000))
    await push_all(buffer, 2_500, 50)
    await asyncio.wait_for(buffer.drain(), 30)
    assert list(map(len, store.calls)) == [1_000, 1_000, 500]
    await buffer.close()


async def test_drop_oldest_drops_what_waits_behind_a_collector_that_is_stuck() -> None:
    store = Store(LIMITS._replace(max_events=1_000_000))
    store.gate.clear()
    buffer = await piped(store, BufferStrategy.ring(100, overflow="drop_oldest"))
    for start in range(0, 2_000, 10):
        await asyncio.wait_for(buffer.push(batch(start, 10)), 30)
        await rest()
        assert buffer.statistics().outlets["store"].lag <= 100
    store.gate.set()
    await asyncio.wait_for(buffer.drain(), 30)
    arrived = sorted(i for call in store.calls for i in call)
    assert arrived[-20:] == [f"{n:05d}" for n in range(1_980, 2_000)]
    assert len(arrived) == 2_000 - buffer.statistics().outlets["store"].dropped
    await buffer.close()


async def test_a_backlog_that_fills_the_buffer_makes_no_smaller_groups() -> None:
    store = Store(LIMITS._replace(max_events=100))
    buffer = await piped(store, BufferStrategy.ring(1_000))
    await asyncio.wait_for(asyncio.gather(*(buffer.push(batch(start, 50)) for start in range(0, 10_000, 50))), 30)
    await asyncio.wait_for(buffer.drain(), 30)
    assert list(map(len, store.calls)) == [100] * 100
    await buffer.close()
