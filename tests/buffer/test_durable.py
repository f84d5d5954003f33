"""A durable buffer: what it has answered for is on disk, and goes on from there after a restart."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from polku import Batch, BufferStrategy, Code, Event
from polku.batch.batch import Identity
from polku.buffer.durable import DurableLog
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Transaction
from polku.contracts import DeadEvent
from polku.dead_letters import DeadLetters
from tests.buffer.durable import batch_of, durable, shut, soon
from tests.buffer.parts import Destination, held, numbered


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


async def test_what_was_answered_is_delivered_after_a_restart(path: Path) -> None:
    async with durable(path, {"a": shut(), "b": shut()}) as first:
        for i in numbered(0, 20):
            assert (await first.push(batch_of(i))).refused == ()
    a, b = Destination(), Destination()
    async with durable(path, {"a": a, "b": b}) as second:
        await second.buffer.drain()
        assert a.ids == b.ids == numbered(0, 20)
    with_nothing_left = Destination()
    async with durable(path, {"a": with_nothing_left, "b": b}) as third:
        await third.buffer.drain()
        assert held(third.buffer) == (0, 0)
    assert with_nothing_left.ids == []


async def test_each_outlet_goes_on_at_its_own_cursor(path: Path) -> None:
    quick, slow = Destination(), shut()
    async with durable(path, {"quick": quick, "slow": slow}) as first:
        for i in numbered(0, 10):
            await first.push(batch_of(i))
        await soon(lambda: len(quick.ids) == 10)
    quick, slow = Destination(), Destination()
    async with durable(path, {"quick": quick, "slow": slow}) as second:
        await second.buffer.drain()
    assert quick.ids == []
    assert slow.ids == numbered(0, 10)


async def test_what_arrives_during_a_commit_goes_into_the_next_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is answered before its commit, and a hundred batches that wait for one need one more."""
    gate, begun = threading.Event(), threading.Event()
    write = Journal.write

    def slow_write(self: Journal, work: Transaction) -> tuple[int, int]:
        begun.set()
        assert gate.wait(60)
        return write(self, work)

    async with durable(path, {"a": shut()}) as bench:
        monkeypatch.setattr(Journal, "write", slow_write)
        pushes = [asyncio.ensure_future(bench.push(batch_of("first")))]
        assert await asyncio.to_thread(begun.wait, 60)
        pushes += [asyncio.ensure_future(bench.push(batch_of(i))) for i in numbered(0, 100)]
        await soon(lambda: len(bench.log._writer._units) == 100)
        assert not any(push.done() for push in pushes)
        gate.set()
        await asyncio.gather(*pushes)
        assert bench.log.commits == 2


async def test_an_outlet_that_lags_by_more_than_its_window_reads_from_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DurableLog, "window", 16)
    monkeypatch.setattr("polku.buffer.recent.LIMIT", 20_000)
    quick, slow = Destination(), shut()
    async with durable(path, {"quick": quick, "slow": slow}) as bench:
        for start in range(0, 1_000, 50):
            await asyncio.gather(*(bench.push(batch_of(i)) for i in numbered(start, start + 50)))
        await soon(lambda: len(quick.ids) == 1_000)
        lagging = bench.buffer.statistics().outlets["slow"]
        assert lagging.lag == 1_000
        assert len(bench.log._recent) <= 20
        assert len(bench.buffer.outlet("slow")._cursor.waiting) <= 16
        slow.gate.set()
        pushes = [asyncio.ensure_future(bench.push(batch_of(i))) for i in numbered(1_000, 1_500)]
        await asyncio.gather(*pushes)
        await bench.buffer.drain()
        assert quick.ids == slow.ids == numbered(0, 1_500)
        statistics = bench.buffer.statistics()
        assert [o.unreadable for o in statistics.outlets.values()] == [0, 0]
        assert [o.lag for o in statistics.outlets.values()] == [0, 0]
        await soon(lambda: held(bench.buffer) == (0, 0))


async def test_disk_space_comes_back(path: Path) -> None:
    a = shut()
    async with durable(path, {"a": a}) as bench:
        for i in numbered(0, 300):
            await bench.push(batch_of(i, payload=b"." * 100_000))
        assert on_disk(path) > 25_000_000
        a.gate.set()
        await bench.buffer.drain()
        await soon(lambda: on_disk(path) < 14_000_000)


class LettersOnDisk(DeadLetters):
    """Letters that are on disk when `are_stored` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.are_stored = asyncio.Event()
        self.ids: list[str] = []

    def _take(self, emitter: str, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        self.ids += [one.event.id for one in dead]
        return asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        await self.are_stored.wait()


@pytest.mark.parametrize("await_delivery", [False, True])
async def test_a_batch_is_not_dealt_with_before_its_dead_letters_are_on_disk(path: Path, await_delivery: bool) -> None:
    """The process ends when the journal has a batch, and nobody has the letter of an event that goes nowhere."""
    batch = Batch.from_events([Event(id="1"), Event(id="2", route_to=["nowhere"]), Event(id="3", route_to=["a", "no"])])
    batch.identity = Identity("link", 7, 1)
    lost, stored, asked = LettersOnDisk(), LettersOnDisk(), LettersOnDisk()
    first_a, second_a = Destination(), Destination()
    async with durable(path, {"a": first_a}, await_delivery=await_delivery, dead_letters=lost) as first:
        push = asyncio.ensure_future(first.push(batch))
        await soon(lambda: first_a.ids == ["1", "3"])
        assert not push.done()
        push.cancel()
    async with durable(path, {"a": second_a}, await_delivery=await_delivery, dead_letters=stored) as second:
        push = asyncio.ensure_future(second.push(batch))
        await soon(lambda: stored.ids == ["2", "3"])
        assert not push.done()
        stored.are_stored.set()
        receipt = await push
        assert [(one.event_id, one.code) for one in receipt.refused] == [("2", Code.UNROUTABLE)]
        await second.push(batch_of("4"))  # with it the journal has what became of the batch
    async with durable(path, {"a": second_a}, await_delivery=await_delivery, dead_letters=asked) as third:
        assert (await third.push(batch)).refused == receipt.refused
    assert lost.ids == ["2", "3"]
    assert asked.ids == []
    assert second_a.ids == ["4"]


async def test_block_makes_the_sender_wait(path: Path) -> None:
    a = shut()
    strategy = BufferStrategy.durable(path, capacity=10)
    async with durable(path, {"a": a}, strategy=strategy) as bench:
        pushes = [asyncio.ensure_future(bench.push(batch_of(i))) for i in numbered(0, 25)]
        await soon(lambda: sum(push.done() for push in pushes) == 10)
        await asyncio.sleep(0.05)
        assert sum(push.done() for push in pushes) == 10
        a.gate.set()
        await asyncio.gather(*pushes)
        await bench.buffer.drain()
    assert a.ids == numbered(0, 25)


async def test_drop_oldest_keeps_the_newest_also_over_a_restart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DurableLog, "window", 4)
    strategy = BufferStrategy.durable(path, capacity=10, overflow="drop_oldest")
    async with durable(path, {"a": shut()}, strategy=strategy, running=False) as first:
        for i in numbered(0, 30):
            assert (await first.push(batch_of(i))).refused == ()
        assert first.buffer.statistics().outlets["a"].dropped == 20
    a = Destination()
    async with durable(path, {"a": a}, strategy=strategy, running=False) as second:
        for i in numbered(30, 33):
            await second.push(batch_of(i))
        second.buffer.start()
        await second.buffer.drain()
    assert a.ids == numbered(23, 33)


@pytest.mark.parametrize("lost", ["30", "20 AND 50", "60"], ids=["one", "many", "the last"])
async def test_events_and_bytes_of_rows_that_are_gone_leave_the_share(
    path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(DurableLog, "window", 4)
    monkeypatch.setattr("polku.buffer.recent.LIMIT", 1)
    a = shut()
    async with durable(path, {"a": a}) as bench:
        for i in numbered(0, 60):
            await bench.push(batch_of(i, payload=b"." * 300))
        first, _, last = lost.partition(" AND ")
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM batch WHERE position BETWEEN ? AND ?", (int(first), int(last or first)))
        db.close()
        a.gate.set()
        await bench.buffer.drain()
        outlet = bench.buffer.statistics().outlets["a"]
        gone = int(last or first) - int(first) + 1
        assert (outlet.unreadable, outlet.confirmed) == (gone, 60 - gone)
        assert (outlet.lag, outlet.lag_bytes, outlet.in_flight) == (0, 0, 0)
        assert (await bench.push(batch_of("later"))).refused == ()
        await bench.buffer.drain()
        assert bench.buffer.statistics().outlets["a"].lag_bytes == 0


async def test_a_journal_for_whose_thread_there_is_no_room_says_so_and_can_be_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DurableLog(str(path))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await log.open(["a"], lambda *_: None)
    async with asyncio.timeout(30):
        await log.close()
