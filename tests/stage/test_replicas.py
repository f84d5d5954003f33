"""Replicas of a stage come and go while it works: nothing is lost, doubled, or out of order."""

from __future__ import annotations

import asyncio
import random

import pytest

from polku import Event, Filter, Transform
from polku.batch.receipt import Counts, Receipt, outcome_of
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer, Window
from polku.middleware.adapt import as_step
from polku.stage.replicas import Replicas, ReplyLink
from polku.stage.stage import Stage
from tests.buffer.parts import until
from tests.stage.bench import Next, batch
from tests.support.clock import FakeClock


class Worker:
    """A replica that works on a batch until the test lets it go on."""

    def __init__(self, number: int) -> None:
        self.begun: list[str] = []
        self.done = 0
        self._gate = asyncio.Semaphore(0)
        self.stage = Stage([as_step(Transform(self._work), FakeClock())], ReplyLink(), DeadLetters(), FakeClock())
        self.link = Link(f"replica-{number}", LocalPeer(self.stage), window=Window(join_events=0))

    async def _work(self, event: Event) -> None:
        self.begun.append(event.id)
        await self._gate.acquire()
        self.done += 1

    def finish(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._gate.release()


class Bench:
    def __init__(self, workers: int) -> None:
        self.workers = [Worker(number) for number in range(workers)]
        self.next = Next()
        after = Link("next", LocalPeer(self.next), window=Window(batches=100, join_events=1))
        self.replicas = Replicas([worker.link for worker in self.workers], after)

    def push(self, *ids: str) -> list[asyncio.Future[Receipt]]:
        return [asyncio.ensure_future(self._push(each)) for each in ids]

    async def _push(self, event_id: str) -> Receipt:
        return await outcome_of(await self.replicas.push(batch(event_id)))

    async def use(self, *numbers: int) -> int:
        while len(self.workers) <= max(numbers):
            self.workers.append(Worker(len(self.workers)))
        return await self.replicas.exchange([self.workers[number].link for number in numbers])


async def test_one_that_comes_has_the_work_that_waits() -> None:
    bench = Bench(1)
    answers = bench.push("1", "2", "3", "4", "5")
    await until(lambda: bench.workers[0].begun == ["1"])
    assert await bench.use(0, 1) == 0
    await until(lambda: bench.workers[1].begun == ["3"])  # 2 is at hand for the first one
    for worker in bench.workers:
        worker.finish(5)
    await asyncio.gather(*answers)
    assert bench.next.ids == [["1"], ["2"], ["3"], ["4"], ["5"]]
    await bench.replicas.close()


async def test_one_that_goes_gets_nothing_more_and_ends_what_it_has() -> None:
    bench = Bench(2)
    answers = bench.push("1", "2", "3", "4")
    await until(lambda: all(worker.begun for worker in bench.workers))
    assert await bench.use(0) == 2
    answers += bench.push("5", "6", "7")
    bench.workers[0].finish(9)
    await until(lambda: bench.workers[0].done == 5)
    assert bench.next.ids == [["1"]]
    assert await bench.use(0) == 2
    bench.workers[1].finish(2)
    await asyncio.gather(*answers)
    assert [ids for [ids] in bench.next.ids] == list("1234567")
    assert await bench.use(0) == 0
    assert bench.replicas.links == (bench.workers[0].link,)
    with pytest.raises(Exception, match="is closed"):
        await bench.workers[1].link.push(batch("8"))
    await bench.replicas.close()


async def test_each_has_a_batch_and_another_at_hand_however_many_have_come_and_gone() -> None:
    bench = Bench(3)
    answers = bench.push(*map(str, range(40)))
    await until(lambda: all(worker.begun for worker in bench.workers))
    for numbers in ([0], [0, 3, 4], [4], [4, 5, 6, 7], [7], [7, 8]):
        await bench.use(*numbers)
        await asyncio.sleep(0)
    for worker in bench.workers[:7]:
        worker.finish(99)
    await until(lambda: all(len(bench.workers[number].begun) == 1 for number in (7, 8)))
    left = 40 - sum(worker.done for worker in bench.workers)
    await until(lambda: len(bench.replicas.links) == 2)
    assert left >= 4
    for worker in bench.workers[7:]:
        worker.finish(99)
    await asyncio.gather(*answers)
    assert [ids for [ids] in bench.next.ids] == list(map(str, range(40)))
    await bench.replicas.close()


async def test_what_those_that_are_gone_have_counted_still_counts() -> None:
    def worker(number: int) -> Link:
        stage = Stage([as_step(Filter(lambda event: False), FakeClock())], ReplyLink(), DeadLetters(), FakeClock())
        return Link(f"filter-{number}", LocalPeer(stage), window=Window(join_events=0))

    links = [worker(number) for number in range(3)]
    replicas = Replicas(links[:2], Link("next", LocalPeer(Next())))

    async def push(event_id: str) -> Receipt:
        return await outcome_of(await replicas.push(batch(event_id)))

    for number in range(6):
        await asyncio.gather(push(f"{number}-1"), push(f"{number}-2"))
    for some in ([links[0]], [links[0], links[2]], [links[2]]):
        assert await replicas.exchange(some) == 0
        receipt = await push("x")
    assert receipt.counts == Counts(filtered=15)
    await replicas.close()


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(n, marks=pytest.mark.slow) for n in range(20, 60))])
async def test_whatever_comes_and_goes_every_batch_goes_on_once_and_in_order(seed: int) -> None:
    chance, bench = random.Random(seed), Bench(2)
    for worker in bench.workers:
        worker.finish(1000)
    answers: list[asyncio.Future[Receipt]] = []
    for number in range(100):
        answers += bench.push(f"{number:03d}")
        if chance.random() < 0.2:
            known = len(bench.workers)
            numbers = [at for at, worker in enumerate(bench.workers) if worker.link in bench.replicas.links]
            numbers = chance.sample(numbers, chance.randint(1, len(numbers)))
            await bench.use(*numbers, *range(known, known + chance.randint(0, 3)))
            for worker in bench.workers[known:]:
                worker.finish(1000)
        for _ in range(chance.choice([0, 0, 1, 5])):
            await asyncio.sleep(0)
    await asyncio.gather(*answers)
    assert [ids for [ids] in bench.next.ids] == [f"{number:03d}" for number in range(100)]
    await bench.replicas.close()
