"""Nobody is answered about an event that became a dead letter before the letter is on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polku import Batch, BufferStrategy, Code, Event, Transform
from polku.batch.receipt import Receipt
from polku.buffer.buffer import Buffer
from polku.dead_letters import disk
from polku.dead_letters.disk import StoredDeadLetters
from polku.dead_letters.store import DeadLetterStore
from polku.link.link import Link, LocalPeer
from polku.middleware.adapt import as_step
from polku.runtime.watch import Watch
from polku.stage.stage import Stage
from tests.buffer.parts import Destination, finish
from tests.dead_letters.letters import ids, wait_for
from tests.support.clock import FakeClock


class Disk:
    """A folder for dead letters that is not there yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.write_text("a file where the folder should be")
        self.letters = StoredDeadLetters(str(folder / "dead.db"), 1_000, 1_000_000)

    async def fails(self) -> None:
        await wait_for(lambda: bool(self.letters.statistics().fault))

    def recover(self) -> None:
        self._folder.unlink()

    def ids(self) -> list[str]:
        store = DeadLetterStore(self._folder / "dead.db", create=False)
        try:
            return ids(store)
        finally:
            store.close()


@pytest.fixture
async def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Disk]:
    monkeypatch.setattr(disk, "_AGAIN", 0.01)
    away = Disk(tmp_path / "folder")
    yield away
    await away.letters.close()


async def push(receiver: Buffer | Stage, *events: Event) -> Receipt:
    return await finish(await receiver.push(Batch.from_events(list(events))))


async def test_an_event_that_also_goes_nowhere_is_accepted_once_its_letter_is_stored(away: Disk) -> None:
    sink = Destination()
    buffer = Buffer(BufferStrategy.ring(10), {"sink": Link("sink", LocalPeer(sink))}, away.letters)
    buffer.start()
    answer = asyncio.ensure_future(push(buffer, Event(id="a", route_to=["sink", "nobody"])))
    await away.fails()
    assert not answer.done()
    assert sink.ids == ["a"]
    away.recover()
    assert (await asyncio.wait_for(answer, 30)).refused == ()
    assert away.ids() == ["a"]
    await buffer.close()


@pytest.mark.parametrize("holds_behind", [False, True])
async def test_an_event_that_user_code_fails_on_is_answered_once_its_letter_is_stored(
    away: Disk, holds_behind: bool
) -> None:
    def fragile(event: Event) -> None:
        if event.id == "bad":
            raise ValueError("not this one")

    sink, clock = Destination(), FakeClock()
    link = Link("sink", LocalPeer(sink))
    stage = Stage([as_step(Transform(fragile), clock)], link, away.letters, clock, holds_behind=holds_behind)
    answer = asyncio.ensure_future(push(stage, Event(id="bad"), Event(id="good")))
    await away.fails()
    assert not answer.done()
    assert sink.ids == ["good"]
    look = Watch()
    look.add_stage("stage-1", stage.statistics())
    healthy, text = look.health(0).components["stage-1"]
    assert (healthy, "its dead letters cannot be stored: dead letters " in text) == (False, True)
    away.recover()
    receipt = await asyncio.wait_for(answer, 30)
    assert [(refusal.event_id, refusal.code) for refusal in receipt.refused] == [("bad", Code.MIDDLEWARE_ERROR)]
    assert away.ids() == ["bad"]
    await stage.close()
