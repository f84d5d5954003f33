"""A durable buffer: what it has answered for is on disk, and goes on from there after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from polku import Batch, BufferStrategy, Code, Event
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt
from polku.buffer.durable import DurableLog
from polku.buffer.journal import Journal
from polku.buffer.journal_reader import JournalReader
from polku.buffer.journal_rows import Work
from polku.buffer.journal_session import JournalSession, Opened
from polku.buffer.log import Recovered
from polku.buffer.reserve import Reserve
from polku.buffer.strategy import Overflow
from polku.contracts import DeadEvent
from polku.dead_letters import DeadLetters
from polku.errors import DrainingError, JournalError, JournalLockedError
from tests.buffer.durable import batch_of, durable, soon
from tests.buffer.parts import Destination, numbered


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def shut() -> Destination:
    return Destination(is_open=False)


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
        assert third.buffer.statistics()[:2] == (0, 0)
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

    def slow_write(self: Journal, work: Work) -> tuple[int, int]:
        begun.set()
        assert gate.wait(60)
        return write(self, work)

    async with durable(path, {"a": shut()}) as bench:
        monkeypatch.setattr(Journal, "write", slow_write)
        pushes = [asyncio.ensure_future(bench.push(batch_of("first")))]
        await asyncio.to_thread(begun.wait, 10)
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
        await soon(lambda: bench.buffer.statistics()[:2] == (0, 0))


async def test_disk_space_comes_back(path: Path) -> None:
    a = shut()
    async with durable(path, {"a": a}) as bench:
        for i in numbered(0, 300):
            await bench.push(batch_of(i, payload=b"." * 100_000))
        assert on_disk(path) > 25_000_000
        a.gate.set()
        await bench.buffer.drain()
        await soon(lambda: on_disk(path) < 14_000_000)


async def test_a_batch_that_is_sent_again_after_a_restart_is_answered_and_not_applied_twice(path: Path) -> None:
    async with durable(path, {"a": shut()}) as first:
        for seq, i in enumerate(numbered(0, 5), 1):
            await first.push(batch_of(i, seq=seq))
    a = Destination()
    async with durable(path, {"a": a}) as second:
        for seq, i in enumerate(numbered(0, 8), 1):
            assert (await second.push(batch_of(i, seq=seq))).refused == ()
        await second.buffer.drain()
        assert second.buffer.statistics().duplicates == 5
    assert a.ids == numbered(0, 8)


async def test_a_batch_of_several_routes_is_answered_after_a_restart_when_all_of_it_is_delivered(path: Path) -> None:
    def mixed() -> object:
        batch = batch_of("1", "2", "3", seq=1)
        for event, to in zip(batch.events, ("a", "b", "a"), strict=True):
            event.route_to.append(to)
        batch.routes = None
        return batch.replace(list(batch.events))

    async with durable(path, {"a": shut(), "b": shut()}, await_delivery=True) as first:
        push = asyncio.ensure_future(first.push(mixed()))  # type: ignore[arg-type]
        await soon(lambda: first.log.commits > 0)
        push.cancel()
    a, b = Destination(), shut()
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as second:
        push = asyncio.ensure_future(second.push(mixed()))  # type: ignore[arg-type]
        await soon(lambda: a.ids == ["1", "3"])
        await asyncio.sleep(0.05)
        assert not push.done()
        b.gate.set()
        assert (await push).refused == ()
    assert (a.ids, b.ids) == (["1", "3"], ["2"])


async def test_at_the_delivered_level_refusals_survive_a_restart(path: Path) -> None:
    """One outlet refuses and one has not answered when the process ends; then the sender asks again."""
    a, b = Destination(refuses={"2"}), shut()
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as first:
        push = asyncio.ensure_future(first.push(batch_of("1", "2", "3", seq=1)))
        await soon(lambda: a.ids == ["1", "2", "3"])
        await asyncio.sleep(0.2)
        assert not push.done()
        push.cancel()
    a, b = Destination(), Destination(refuses={"3"})
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as second:
        receipt = await second.push(batch_of("1", "2", "3", seq=1))
        assert sorted(refusal.event_id for refusal in receipt.refused) == ["2", "3"]
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as third:
        receipt = await third.push(batch_of("1", "2", "3", seq=1))
        assert sorted(refusal.event_id for refusal in receipt.refused) == ["2", "3"]
        assert {refusal.code for refusal in receipt.refused} == {Code.UNDELIVERED}
    assert (a.ids, b.ids) == ([], ["1", "2", "3"])


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


async def test_best_effort_emitters_hold_no_sender_up_and_their_refusals_are_not_its_business(path: Path) -> None:
    a, metrics, slow = Destination(), Destination(refuses={"1"}), shut()
    links = {"metrics": metrics, "a": a, "slow": slow}
    async with durable(path, links, best_effort={"metrics", "slow"}, await_delivery=True) as bench:
        assert (await bench.push(batch_of("1", seq=1))).refused == ()
        assert a.ids == ["1"]


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


async def test_drop_newest_tells_the_sender_also_when_it_asks_again_after_a_restart(path: Path) -> None:
    strategy = BufferStrategy.durable(path, capacity=3)
    rules = {"a": Overflow.DROP_NEWEST}
    async with durable(path, {"a": shut()}, strategy=strategy, overflow=rules) as first:
        told = await first.push(batch_of(*numbered(0, 5), seq=1))
        assert [refusal.event_id for refusal in told.refused] == numbered(3, 5)
    a = Destination()
    async with durable(path, {"a": a}, strategy=strategy, overflow=rules) as second:
        again = await second.push(batch_of(*numbered(0, 5), seq=1))
        await second.buffer.drain()
    assert again.refused == told.refused
    assert a.ids == numbered(0, 3)


async def test_a_journal_has_one_owner(path: Path) -> None:
    async with durable(path, {"a": Destination()}):
        with pytest.raises(JournalLockedError) as caught:
            async with durable(path, {"a": Destination()}):
                pass
        assert caught.value.pid == str(os.getpid())
    async with durable(path, {"a": Destination()}):
        pass


async def test_a_path_that_cannot_be_used_refuses_and_heals_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "deep" / "journal.db"
    blocker = f"{path}.lock"
    os.makedirs(blocker)  # a folder where a file should be
    a = Destination()
    async with durable(path, {"a": a}) as bench:
        receipt = await bench.push(batch_of("1"))
        assert [(r.event_id, r.code) for r in receipt.refused] == [("1", Code.BUFFER_FULL)]
        assert str(path) in receipt.refused[0].message
        assert str(path) in bench.buffer.statistics().fault
        assert bench.buffer.statistics()[:2] == (0, 0)
        assert bench.buffer.statistics().outlets["a"].lag == 0
        os.rmdir(blocker)
        await soon(lambda: bench.buffer.statistics().fault == "")
        assert (await bench.push(batch_of("2"))).refused == ()
        await bench.buffer.drain()
    assert a.ids == ["2"]


async def test_a_fault_that_passes_is_over_without_anybody_sending(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = True

    def fail(self: Journal, work: Work) -> tuple[int, int]:
        if broken:
            raise JournalError(self.path, "the disk is full")
        return write(self, work)

    def probe(self: Journal) -> None:
        if broken:
            raise JournalError(self.path, "the disk is full")

    write = Journal.write
    a = Destination()
    async with durable(path, {"a": a}) as bench:
        await bench.push(batch_of("1"))
        await bench.buffer.drain()
        await soon(lambda: bench.buffer.statistics()[:2] == (0, 0))
        monkeypatch.setattr(Journal, "write", fail)
        monkeypatch.setattr(Journal, "probe", probe)
        assert len((await bench.push(batch_of("2"))).refused) == 1
        assert "the disk is full" in bench.buffer.statistics().fault
        broken = False
        await soon(lambda: not bench.buffer.statistics().fault)
        assert (await bench.push(batch_of("3"))).refused == ()
        await bench.buffer.drain()
    assert a.ids == ["1", "3"]


async def test_what_is_damaged_is_counted_and_the_rest_is_served(path: Path) -> None:
    async with durable(path, {"a": shut()}) as first:
        for i in numbered(0, 10):
            await first.push(batch_of(i))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE batch SET payload=zeroblob(length(payload)) WHERE position=4")
    db.close()
    a = Destination()
    async with durable(path, {"a": a}) as second:
        await second.buffer.drain()
        assert second.buffer.statistics().outlets["a"].unreadable == 1
    assert a.ids == numbered(0, 3) + numbered(4, 10)
    journal = JournalReader(path)
    assert journal.statistics().lost_batches == 1
    journal.close()


@pytest.mark.parametrize(
    "damage",
    ["outlet SET cursor='x'", "outlet SET name=x'00'", "outlet SET bit=1000", "answered SET refused='x'",
     "answered SET pieces='[1]'", "answered SET seq='x' WHERE seq=4", "answered SET origin=CAST(x'ff' AS TEXT)"],
)  # fmt: skip
async def test_cursors_and_answers_that_make_no_sense_cost_no_batch(path: Path, damage: str) -> None:
    async with durable(path, {"a": shut()}) as first:
        for number, i in enumerate(numbered(0, 10), 1):
            await first.push(batch_of(i, seq=number))
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE {damage}")
    db.close()
    a = Destination()
    async with durable(path, {"a": a}) as second:
        await second.buffer.drain()
        assert not second.buffer.statistics().fault
    assert a.ids == numbered(0, 10)
    assert len(list(path.parent.glob("*.damaged-*[0-9]"))) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("column", ["events='x'", "size='x'", "takers='x'", "origin=CAST(x'ff' AS TEXT)", "seal='x'"])
async def test_a_batch_of_which_any_column_makes_no_sense_costs_no_other(path: Path, column: str) -> None:
    async with durable(path, {"a": shut()}) as first:
        for number, i in enumerate(numbered(0, 10), 1):
            await first.push(batch_of(i, seq=number))
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE batch SET {column} WHERE position=4")
    db.close()
    a = Destination()
    async with durable(path, {"a": a}) as second:
        await second.buffer.drain()
        await soon(lambda: not second.buffer.statistics().fault)
    assert a.ids == numbered(0, 3) + numbered(4, 10)


async def test_a_journal_whose_opening_failed_can_be_opened_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise TypeError("nobody expected this")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "register", fail)
        with pytest.raises(TypeError):
            async with durable(path, {"a": shut()}):
                pass
    async with durable(path, {"a": shut()}) as bench:
        assert (await bench.push(batch_of("1"))).refused == ()


async def test_what_is_pushed_before_the_journal_can_be_opened_answers_for_itself_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, at positions that batches in the journal have: those are answered when they are delivered."""
    before = batch_of("1", "2", seq=1)
    async with durable(path, {"a": shut()}, await_delivery=True) as bench:
        await bench.buffer.push(before)
    a = shut()
    opened, open_journal = list[JournalSession](), JournalSession.open

    def late(session: JournalSession, outlets: Sequence[str], *, damaged: bool = False) -> Opened:
        opened.append(session)
        if len(opened) == 1:
            raise JournalError(path, "the disk is full")
        return open_journal(session, outlets, damaged=damaged)

    monkeypatch.setattr(JournalSession, "open", late)
    async with durable(path, {"a": a}, await_delivery=True) as bench:
        refused = (await asyncio.wait_for(bench.push(batch_of("3", "4", seq=2)), 30)).refused
        assert [(refusal.event_id, refusal.code) for refusal in refused] == [("3", "BUFFER_FULL"), ("4", "BUFFER_FULL")]
        await soon(lambda: not bench.buffer.statistics().fault)
        again = asyncio.ensure_future(bench.push(before))
        await asyncio.sleep(0.1)
        assert not again.done()  # nothing of it is delivered
        a.gate.set()
        assert (await asyncio.wait_for(again, 30)).refused == ()
        assert a.ids == ["1", "2"]


async def test_what_is_put_before_the_journal_is_opened_and_committed_after_that_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with durable(path, {"a": shut()}) as bench:
        await bench.push(batch_of("1", "2"))
    log, is_full, recovered = DurableLog(str(path)), True, list[Recovered]()
    open_journal = JournalSession.open

    def late(session: JournalSession, outlets: Sequence[str], *, damaged: bool = False) -> Opened:
        if is_full:
            raise JournalError(path, "the disk is full")
        return open_journal(session, outlets, damaged=damaged)

    monkeypatch.setattr(JournalSession, "open", late)
    await log.open(["a"], recovered.append)
    slot = await log.put(batch_of("3"), ["a"])
    is_full = False
    await soon(lambda: bool(recovered))
    (there,) = await log.fetch([slot.position])
    assert there is not None
    assert there.ids == ["1", "2"]
    with pytest.raises(JournalError, match="opened only now"):
        await log.commit(None)
    assert log.size[0] == 2
    slot = await log.put(batch_of("4"), ["a"])
    await log.commit(None)
    assert [one and one.ids for one in await log.fetch([1, slot.position])] == [["1", "2"], ["4"]]
    await log.close()


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


def wipe_pages(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * 32 * 1024)
            file.write(os.urandom(32 * 1024))


@pytest.mark.timeout(300)
async def test_a_journal_that_is_damaged_while_it_is_open_is_mended_while_it_is_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DurableLog, "window", 16)
    monkeypatch.setattr("polku.buffer.recent.LIMIT", 20_000)
    a = shut()
    async with durable(path, {"a": a}) as bench:
        for start in range(0, 5_000, 100):
            await asyncio.gather(*(bench.push(batch_of(i, payload=b"." * 2_000)) for i in numbered(start, start + 100)))
        wipe_pages(path, 50, 60, 70)
        a.gate.set()
        await bench.buffer.drain()
        outlet = bench.buffer.statistics().outlets["a"]
        assert 0 < outlet.unreadable < 200
        assert len(a.ids) + outlet.unreadable == 5_000
        assert a.ids == sorted(set(a.ids))
        await soon(lambda: not bench.buffer.statistics().fault)
        assert (await bench.push(batch_of("later"))).refused == ()
        await bench.buffer.drain()
        await soon(lambda: bench.buffer.statistics()[:2] == (0, 0))
    assert a.ids[-1] == "later"
    assert len(list(path.parent.glob("*.damaged-*"))) >= 1


async def test_a_receipt_names_the_fullest_outlet(path: Path) -> None:
    async with durable(path, {"a": shut(), "b": Destination()}) as bench:
        receipt = await bench.push(batch_of("1", "2"))
        assert isinstance(receipt, Receipt)
        assert receipt.buffer_size == 2


async def in_part(path: Path, *, rule: Overflow = Overflow.BLOCK, await_delivery: bool = False) -> None:
    """Have a batch of 30 events die with the buffer after 20 of them were held for `a`, and all for `b`."""
    strategy = BufferStrategy.durable(path, capacity=20)
    a, b = Destination(is_open=False), Destination()
    rules = {"b": rule}
    async with durable(
        path, {"a": a, "b": b}, strategy=strategy, overflow=rules, await_delivery=await_delivery
    ) as bench:
        pushing = asyncio.ensure_future(bench.push(batch_of(*numbered(0, 30), seq=1)))
        await soon(lambda: len(b.ids) == 30)
        assert not pushing.done()
    with contextlib.suppress(DrainingError):
        await pushing


@pytest.mark.parametrize("await_delivery", [False, True])
async def test_what_was_held_in_part_when_the_buffer_died_is_completed_and_nothing_applied_twice(
    path: Path, await_delivery: bool
) -> None:
    await in_part(path, await_delivery=await_delivery)
    a, b = Destination(refuses=["0003", "0025"]), Destination()
    async with durable(path, {"a": a, "b": b}, await_delivery=await_delivery) as bench:
        receipt = await bench.push(batch_of(*numbered(0, 30), seq=1))
        again = await bench.push(batch_of(*numbered(0, 30), seq=1))
        await bench.buffer.drain()
    assert sorted(a.ids) == numbered(0, 30)
    assert b.ids == []
    expected = [3, 25] if await_delivery else []
    assert [refusal.position for refusal in receipt.refused] == expected
    assert [refusal.position for refusal in again.refused] == expected


async def test_a_part_that_could_not_be_written_is_refused_and_no_more_than_that(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = BufferStrategy.durable(path, capacity=20)
    a, b = Destination(is_open=False), Destination()
    full = False

    def take(reserve: Reserve) -> None:
        if full:
            raise JournalError(path, "the disk is full")

    monkeypatch.setattr(Reserve, "take", take)
    async with durable(path, {"a": a, "b": b}, strategy=strategy) as bench:
        pushing = asyncio.ensure_future(bench.push(batch_of(*numbered(0, 30), seq=1)))
        await soon(lambda: len(b.ids) == 30)
        full = True
        a.gate.set()  # there is room in the share now, and none on the disk
        receipt = await pushing
        full = False
        assert [refusal.position for refusal in receipt.refused] == list(range(20, 30))
        assert {refusal.event_id for refusal in receipt.refused} == set(numbered(20, 30))
        await bench.buffer.drain()
    assert a.ids == numbered(0, 20)


async def test_refusals_of_pieces_that_lie_apart_name_the_right_events_after_a_restart(path: Path) -> None:
    ids = numbered(0, 6)
    batch = Batch.from_events([Event(id=i, route_to=["a" if n % 2 else "b"]) for n, i in enumerate(ids)])
    batch.identity = Identity("link", 7, 1)
    copy = Batch.from_wire(batch.header, batch.payload)
    shut = {name: Destination(is_open=False) for name in "ab"}
    async with durable(path, shut, await_delivery=True) as bench:
        await bench.buffer.push(batch)
        await soon(lambda: bench.log.commits > 0)
    refusing = {"a": Destination(refuses=["0003"]), "b": Destination(refuses=["0004"])}
    async with durable(path, refusing, await_delivery=True) as bench:
        receipt = await bench.push(copy)
    assert [(refusal.position, refusal.event_id) for refusal in receipt.refused] == [(3, "0003"), (4, "0004")]
