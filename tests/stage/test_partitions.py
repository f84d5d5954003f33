"""A batch is divided among partitions by the keys of its events, and answered as one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polku import Batch, Code, Event, Refusal
from polku.batch.batch import Identity
from polku.batch.receipt import Accepted, Answer, Counts, Receipt, outcome_of
from polku.errors import DrainingError
from polku.link.link import Link, LocalPeer, Window
from polku.stage.key_space import KeySpace
from polku.stage.partitions import Partitions
from tests.buffer.parts import until

KEYS = [next(f"{n}" for n in range(100) if KeySpace(3).partition_of(f"{n}") == part) for part in range(3)]
"""A source of each partition."""


class Part:
    """Be a partition: keep batches, and answer them when the test says so, or at once."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.answers: list[asyncio.Future[Receipt]] = []
        self.receipt: Receipt | None = Receipt()

    async def push(self, batch: Batch) -> Answer:
        self.batches.append(batch)
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        if self.receipt is not None:
            answer.set_result(self.receipt)
        return await answer

    @property
    def ids(self) -> list[list[str]]:
        return [batch.ids for batch in self.batches]


class Bench:
    def __init__(self) -> None:
        self.parts = [Part(), Part(), Part()]
        window = Window(batches=2, join_events=0)
        links = {f"part-{n}": Link(f"link-{n}", LocalPeer(part), window=window) for n, part in enumerate(self.parts)}
        self.partitions = Partitions(links, lambda events: [event.source for event in events])

    async def push(self, batch: Batch) -> Receipt:
        answer = await self.partitions.push(batch)
        assert isinstance(answer, Accepted)
        return await outcome_of(answer)


def batch(parts: Sequence[int], *, first: int = 0) -> Batch:
    """Return events of the partitions with these numbers."""
    events = [Event(id=f"e{first + at}", source=KEYS[part]) for at, part in enumerate(parts)]
    made = Batch.from_events(events)
    made.identity = Identity("polku/lane-2/ingest", 7, 3)
    return made


async def test_each_partition_gets_the_events_of_its_keys_in_their_order() -> None:
    bench = Bench()
    assert await bench.push(batch([0, 2, 0, 1, 2])) == Receipt()
    assert [part.ids for part in bench.parts] == [[["e0", "e2"]], [["e3"]], [["e1", "e4"]]]
    await bench.push(batch([1, 1], first=5))
    assert [part.ids for part in bench.parts] == [[["e0", "e2"]], [["e3"], ["e5", "e6"]], [["e1", "e4"]]]


async def test_refusals_and_fates_are_told_by_their_positions_in_the_whole_batch() -> None:
    bench = Bench()
    bench.parts[0].receipt = Receipt((Refusal("x", Code.UNROUTABLE, "no", position=1),), fates=((0, "filtered", 1),))
    bench.parts[2].receipt = Receipt((Refusal("x", Code.BUFFER_FULL, "no", position=0),), fates=((1, "filtered", 1),))
    receipt = await bench.push(batch([0, 2, 0, 1, 2]))
    assert [(refusal.position, refusal.code) for refusal in receipt.refused] == [
        (1, Code.BUFFER_FULL),
        (2, Code.UNROUTABLE),
    ]
    assert receipt.fates == ((0, "filtered", 1), (4, "filtered", 1))


async def test_what_partitions_count_is_added_up_and_what_is_behind_them_is_not() -> None:
    bench = Bench()
    behind = Counts(overflowed=5, received=9)
    for number, part in enumerate(bench.parts):
        part.receipt = Receipt(counts=behind, own=Counts(deduplicated=number + 1), buffer_size=4, buffer_capacity=10)
    receipt = await bench.push(batch([0, 1, 2]))
    assert receipt.counts == Counts(overflowed=5, received=9, deduplicated=6)
    assert (receipt.own, receipt.buffer_size, receipt.buffer_capacity) == (Counts(), 4, 10)
    bench.parts[0].receipt = Receipt(counts=behind, own=Counts(deduplicated=10))
    assert (await bench.push(batch([0]))).counts.deduplicated == 15


async def test_a_share_has_an_identity_of_its_own_which_it_has_again_when_it_comes_again() -> None:
    bench = Bench()
    for parts in ([0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]):
        await bench.push(batch(parts))
    first, again, other, alone = [own.identity for own in bench.parts[0].batches]
    assert first == again
    assert first is not None
    assert len({first, other, alone}) == 3
    assert first.whole == Identity("polku/lane-2/ingest/part-0", 7, 3)
    assert bench.parts[1].batches[0].identity not in (first, other, alone)
    derived = Identity("polku/lane-2/ingest#=ab#0-5", 7, 3).share("part-1", "cd")
    assert derived.whole == Identity("polku/lane-2/ingest/part-1", 7, 3)


async def test_one_that_is_away_holds_up_no_other_for_longer_than_it_takes_to_notice() -> None:
    bench = Bench()
    bench.parts[1].receipt = None
    loop = asyncio.get_running_loop()
    waiting = [asyncio.ensure_future(bench.push(batch([1]))) for _ in range(5)]
    await until(lambda: len(bench.parts[1].batches) == 2)
    async with asyncio.timeout(30):
        await bench.push(batch([0, 2]))
    began = loop.time()
    for _ in range(50):
        await bench.push(batch([0, 2]))
    assert loop.time() - began < 10  # each of them would wait for a second
    assert not any(task.done() for task in waiting)
    bench.parts[1].receipt = Receipt()
    for answer in list(bench.parts[1].answers):
        answer.set_result(Receipt())
    await asyncio.wait_for(asyncio.gather(*waiting), 30)


async def test_what_nobody_knows_of_is_refused_and_may_be_sent_again() -> None:
    bench = Bench()
    bench.parts[1].receipt = None
    pushing = asyncio.ensure_future(bench.push(batch([0, 1, 2, 1])))
    await until(lambda: len(bench.parts[1].batches) == 1)
    bench.parts[1].answers[0].set_exception(DrainingError("it ends"))
    receipt = await pushing
    assert [(r.event_id, r.code, r.position) for r in receipt.refused] == [
        ("e1", Code.UNAVAILABLE, 1),
        ("e3", Code.UNAVAILABLE, 3),
    ]
    assert "part-1: it ends" in receipt.refused[0].message
    pushing = asyncio.ensure_future(bench.push(batch([1])))
    await until(lambda: len(bench.parts[1].batches) == 2)
    bench.parts[1].answers[1].set_exception(DrainingError("it ends"))
    with pytest.raises(DrainingError):
        await pushing


async def test_an_event_without_a_key_goes_to_one_partition() -> None:
    bench = Bench()
    bench.partitions._keys = lambda events: [None if event.id == "e1" else event.source for event in events]
    await bench.push(batch([2, 2, 2]))
    assert [part.ids for part in bench.parts] == [[["e1"]], [], [["e0", "e2"]]]
    await bench.partitions.close()
