"""What a journal has lost is never reported as delivered to a sender that waits for that."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from polku import Code, Refusal
from polku.batch.receipt import Receipt
from polku.buffer.durable import DurableLog
from tests.buffer.durable import batch_of, durable, shut, soon
from tests.buffer.parts import Destination, numbered

DAMAGE = {
    "unreadable": "UPDATE batch SET payload=zeroblob(length(payload)) WHERE position IN (30, 59)",
    "gone": "DELETE FROM batch WHERE position IN (30, 59)",
}


@pytest.fixture(autouse=True)
def _read_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DurableLog, "window", 4)
    monkeypatch.setattr("polku.buffer.recent.LIMIT", 1)


async def refusals_after(
    damage: str, path: Path, shut_one: Destination, pushes: Sequence[asyncio.Task[Receipt]]
) -> dict[int, tuple[Refusal, ...]]:
    """Damage the journal, open the destination that was shut, and return what is refused, by number from 1."""
    with sqlite3.connect(path) as db:
        db.execute(DAMAGE[damage])
    db.close()
    shut_one.gate.set()
    async with asyncio.timeout(30):
        receipts = await asyncio.gather(*pushes)
    return {number: receipt.refused for number, receipt in enumerate(receipts, 1) if receipt.refused}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_the_journal_has_lost_is_refused_to_the_sender_that_waits_for_its_delivery(
    path: Path, damage: str
) -> None:
    a, b = shut(), Destination()
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as bench:
        pushes = [
            asyncio.ensure_future(bench.push(batch_of(i, f"{i}+", seq=seq, payload=b"." * 300)))
            for seq, i in enumerate(numbered(0, 60), 1)
        ]
        await soon(lambda: len(b.ids) == 120)
        refused = await refusals_after(damage, path, a, pushes)
        assert list(refused) == [30, 59]
        for refusals in refused.values():
            assert sorted(refusal.position for refusal in refusals) == [0, 1]
            assert {refusal.code for refusal in refusals} == {Code.UNDELIVERED}
            assert "emitter 'a'" in refusals[0].message
            assert "send it again" in refusals[0].message
        outlet = bench.buffer.statistics().outlets["a"]
        assert (outlet.unreadable, outlet.confirmed, outlet.lag) == (4, 116, 0)
        assert not bench.buffer._pending
        again = await bench.push(batch_of("0029", "0029+", seq=30))
        assert sorted(refusal.position for refusal in again.refused) == [0, 1]
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as second:
        again = await second.push(batch_of("0029", "0029+", seq=30))
        assert sorted(refusal.position for refusal in again.refused) == [0, 1]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_also_where_the_sender_asks_again_after_a_restart(path: Path, damage: str) -> None:
    batches = [batch_of(i, f"{i}+", seq=seq, payload=b"." * 300) for seq, i in enumerate(numbered(0, 60), 1)]
    async with durable(path, {"a": shut()}, await_delivery=True) as first:
        pushes = [asyncio.ensure_future(first.push(batch)) for batch in batches]
        await soon(lambda: first.log.size[0] == 120 and first.buffer.statistics().outlets["a"].lag == 120)
        await soon(lambda: first.log._held == 60)
        for push in pushes:
            push.cancel()
    a = shut()
    async with durable(path, {"a": a}, await_delivery=True) as second:
        pushes = [asyncio.ensure_future(second.push(batch)) for batch in batches]
        await asyncio.sleep(0)
        refused = await refusals_after(damage, path, a, pushes)
        assert list(refused) == [30, 59]
        assert all(sorted(refusal.position for refusal in refusals) == [0, 1] for refusals in refused.values())
