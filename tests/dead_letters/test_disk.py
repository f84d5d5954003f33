"""Dead letters go to disk, all that are handed in: nobody waits for ever, and nothing counts as stored that is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from polku import Batch, Code, Event
from polku.batch.receipt import Refusal
from polku.contracts import DeadEvent
from polku.dead_letters import disk
from polku.dead_letters.disk import StoredDeadLetters
from polku.dead_letters.store import DeadLetterStore, Selection
from tests.dead_letters.letters import ids, wait_for

LONE = json.loads('"\\ud800"')


@pytest.fixture
async def letters(tmp_path: Path) -> AsyncIterator[StoredDeadLetters]:
    letters = StoredDeadLetters(str(tmp_path / "folder" / "dead.db"), 1_000, 1_000_000)
    yield letters
    await letters.close()


def bury(letters: StoredDeadLetters, event_id: str, reason: str = "why") -> Awaitable[None]:
    batch = Batch.from_events([Event(id=event_id, source="s")])
    stored = letters.bury("sink", batch, [Refusal(event_id, Code.UNDELIVERED, reason)])
    assert stored is not None
    return stored


def on_disk(tmp_path: Path) -> list[str]:
    store = DeadLetterStore(tmp_path / "folder" / "dead.db", create=False)
    try:
        return ids(store)
    finally:
        store.close()


async def test_a_reason_that_cannot_be_encoded_costs_nothing(letters: StoredDeadLetters, tmp_path: Path) -> None:
    stored = [bury(letters, "a"), bury(letters, "b", f"unknown user {LONE}"), bury(letters, "c")]
    await asyncio.wait_for(asyncio.gather(*stored), 30)
    assert on_disk(tmp_path) == ["a", "b", "c"]
    assert [letter.reason for letter in await letters.stored()] == ["why", "unknown user \\ud800", "why"]


async def test_a_detail_that_cannot_be_encoded_costs_nothing(letters: StoredDeadLetters) -> None:
    stored = letters.bury_events([DeadEvent(Event(id="a"), Refusal("a", Code.MIDDLEWARE_ERROR, LONE), f"line\n{LONE}")])
    assert stored is not None
    await asyncio.wait_for(stored, 30)
    (letter,) = await letters.stored()
    assert (letter.reason, letter.detail) == ("\\ud800", "line\n\\ud800")


async def test_letters_can_be_read_after_the_end(tmp_path: Path) -> None:
    letters = StoredDeadLetters(str(tmp_path / "dead.db"), 10, 10_000)
    await bury(letters, "a")
    await letters.close()
    await letters.close()
    async with asyncio.timeout(30):
        assert [letter.event.id for letter in await letters.stored()] == ["a"]
        assert await letters.change("drop", Selection()) == 1
        assert await letters.stored() == []


async def test_letters_wait_until_the_disk_takes_them(
    letters: StoredDeadLetters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_AGAIN", 0.01)
    (tmp_path / "folder").write_text("a file where the folder should be")
    first = asyncio.ensure_future(bury(letters, "a"))
    await wait_for(lambda: bool(letters.statistics().fault))
    second = asyncio.ensure_future(bury(letters, "b"))
    await asyncio.sleep(0.05)
    assert not first.done()
    (tmp_path / "folder").unlink()
    await asyncio.wait_for(asyncio.gather(first, second), 30)
    assert letters.statistics().fault == ""
    assert on_disk(tmp_path) == ["a", "b"]


async def test_what_cannot_be_stored_before_the_end_never_counts_as_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk, "_AGAIN", 0.01)
    monkeypatch.setattr(disk, "_LAST_CHANCE", 0.05)
    (tmp_path / "folder").write_text("a file where the folder should be")
    letters = StoredDeadLetters(str(tmp_path / "folder" / "dead.db"), 1_000, 1_000_000)
    first = asyncio.ensure_future(bury(letters, "a"))
    await wait_for(lambda: bool(letters.statistics().fault))
    second = asyncio.ensure_future(bury(letters, "b"))
    await letters.close()
    await asyncio.wait_for(asyncio.wait((first, second)), 30)
    assert first.cancelled()
    assert second.cancelled()
    assert "2 could not be stored before the end" in caplog.text


async def test_what_is_pushed_out_is_counted_by_emitter_and_code(tmp_path: Path) -> None:
    letters = StoredDeadLetters(str(tmp_path / "dead.db"), 5, 1_000_000)
    await bury(letters, "order")
    batch = Batch.from_events([Event(id=f"n{n}") for n in range(20)])
    stored = letters.bury("", batch, [Refusal(event_id, Code.UNROUTABLE, "nobody") for event_id in batch.ids])
    assert stored is not None
    await stored
    statistics = letters.statistics()
    assert (statistics.total, statistics.forgotten) == (21, 16)
    assert statistics.forgotten_by == {("", Code.UNROUTABLE): 16}
    assert [letter.event.id for letter in await letters.stored()] == ["order", "n16", "n17", "n18", "n19"]
    await letters.close()
