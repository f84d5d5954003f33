"""A durable buffer whose journal cannot be opened, written or read: what is lost is named, and the rest is served."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from polku import BufferStrategy, Code
from polku.buffer.durable import DurableLog
from polku.buffer.journal import Journal
from polku.buffer.journal_reader import JournalReader
from polku.buffer.journal_rows import Transaction
from polku.buffer.journal_session import JournalSession, Opened
from polku.buffer.log import Recovered
from polku.buffer.reserve import Reserve
from polku.errors import JournalError, JournalLockedError
from tests.buffer.durable import batch_of, durable, shut, soon
from tests.buffer.parts import Destination, held, numbered


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
        assert held(bench.buffer) == (0, 0)
        assert bench.buffer.statistics().outlets["a"].lag == 0
        os.rmdir(blocker)
        await soon(lambda: bench.buffer.statistics().fault == "")
        assert (await bench.push(batch_of("2"))).refused == ()
        await bench.buffer.drain()
    assert a.ids == ["2"]


async def test_a_fault_that_passes_is_over_without_anybody_sending(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = True

    def fail(self: Journal, work: Transaction) -> tuple[int, int]:
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
        await soon(lambda: held(bench.buffer) == (0, 0))
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
    with pytest.raises(JournalError, match="arrived before it was open"):
        await log.commit(None)
    assert log.size[0] == 2
    slot = await log.put(batch_of("4"), ["a"])
    await log.commit(None)
    assert [one and one.ids for one in await log.fetch([1, slot.position])] == [["1", "2"], ["4"]]
    await log.close()


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
        await soon(lambda: held(bench.buffer) == (0, 0))
    assert a.ids[-1] == "later"
    assert len(list(path.parent.glob("*.damaged-*"))) >= 1


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
