"""The model of the durable log and the journal on disk do the same, whatever is done with them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Refusal
from polku.buffer.durable import DurableLog
from polku.buffer.log import Log, Recovered
from polku.buffer.remembered import StoredAnswer
from polku.codes import Code
from polku.event.v1.event_pb2 import Event
from polku.testing.simulation.disk import Disk, ModelLog
from polku.testing.simulation.world import World

OUTLETS = ("a", "b", "c")


class Life:
    """A log that is opened again and again, and what it told when it was opened."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self.log: Log
        self.told: list[Any] = []
        self._open: list[tuple[str, int]] = []  # claims that are not release

    async def open(self, outlets: Sequence[str]) -> None:
        self.log = self._make()
        recovered: list[Recovered] = []
        await self.log.open(outlets, recovered.append)
        (state,) = recovered
        waiting = {name: replace(outlet, bytes=0, oldest_ns=0) for name, outlet in state.outlets.items()}
        answers = sorted(map(repr, state.answers))
        takers = [
            (
                a.identity,
                sorted(
                    (at, events, tuple(sorted(names))) for at, events, names in state.takers(a.first, a.last) if names
                ),
            )
            for a in state.answers
        ]
        self.told.append((waiting, answers, sorted(takers)))
        self._open = []
        for name, outlet in state.outlets.items():
            for slot in await self.log.next_slots(name, outlet.cursor, 100):
                self.claim(name, slot.position)

    def claim(self, name: str, position: int) -> None:
        self.log.claim(name, position)
        self._open.append((name, position))

    async def push(self, identity: Identity, pieces: Sequence[tuple[int, Sequence[str]]], *, complete: bool) -> None:
        places, start, slots = [], 0, []
        for events, takers in pieces:
            batch = Batch.from_events([Event(id=f"{identity.seq}-{start + n}") for n in range(events)])
            batch.identity = identity
            slot = await self.log.put(batch.sealed(), takers)
            slots.append((slot, takers))
            places.append((slot.position, start))
            start += events
        first, last = (places[0][0], places[-1][0]) if places else (0, -1)
        taken = None if complete else dict.fromkeys(OUTLETS, start)
        held = self.log.commit(StoredAnswer(identity, first, last, (), tuple(places), taken))
        assert held is not None
        await held
        for slot, takers in slots:
            for name in takers:
                self.claim(name, slot.position)

    def settle(self, number: int, refused: Identity | None) -> None:
        """Release one claim; with `refused` its batch's answer gets a refusal first."""
        if self._open:
            name, position = self._open.pop(number % len(self._open))
            if refused is not None:
                self.log.amend(refused, [Refusal("x", Code.UNDELIVERED, "no", position=0)])
            self.log.release(name, position)

    async def read(self) -> list[Any]:
        return [await self._ids(position) for position in sorted({position for _, position in self._open})]

    async def _ids(self, position: int) -> list[str]:
        (batch,) = await self.log.fetch([position])
        assert batch is not None
        return batch.ids


@pytest.mark.parametrize("seed", range(12))
async def test_model_and_journal_recover_the_same(tmp_path: Path, seed: int) -> None:
    world, disk = World(seed), Disk()
    final = bool(seed % 2)
    path = str(tmp_path / "journal.db")
    lives = [
        Life(lambda: ModelLog(world, disk, path="model", final=final)),
        Life(lambda: DurableLog(path, final=final)),
    ]
    for life in lives:
        await life.open(OUTLETS)
    for life in lives:
        await _live(life, Random(seed))
    for one, other in zip(lives[0].told, lives[1].told, strict=True):
        assert one == other
    world.loop.close()


async def _live(life: Life, random: Random) -> None:
    seq = 0
    for _ in range(4):
        for _ in range(random.randrange(1, 12)):
            if random.random() < 0.6:
                seq += 1
                pieces = [
                    (random.randrange(1, 4), random.sample(OUTLETS, random.randrange(1, 4)))
                    for _ in range(random.randrange(3))
                ]
                await life.push(Identity("link", 1, seq), pieces, complete=random.random() < 0.8)
            else:
                refused = Identity("link", 1, random.randrange(1, seq + 1)) if seq and random.random() < 0.3 else None
                life.settle(random.randrange(100), refused)
        life.told.append(await life.read())
        await life.log.close()
        await asyncio.sleep(0)
        await life.open(OUTLETS)
    await life.log.close()
