"""A model of the durable buffer's log: what its journal promises, without SQLite and without threads.

A `Disk` outlives the processes that use it. What a `ModelLog` commits is there at once and as a whole, or not at all: a
process that dies while it commits may find either. It has the same contract as `polku.buffer.durable.DurableLog`, and a
property test holds the two to the same answers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from polku.batch.batch import Batch, Header, Identity
from polku.batch.receipt import Refusal
from polku.buffer.journal_file import weigh
from polku.buffer.journal_sweep import KEPT_ANSWERS
from polku.buffer.log import OnOpen, Recovered
from polku.buffer.positions import LogSlot, OutletState
from polku.buffer.remembered import StoredAnswer
from polku.errors import JournalError
from polku.testing.simulation.lineage import tokens_of
from polku.v1.gateway_pb2 import EventPayload

if TYPE_CHECKING:
    from polku.testing.simulation.ledger import Ledger
    from polku.testing.simulation.world import World


@dataclass(slots=True)
class StoredBatch:
    """A batch on a disk, and the outlets that it goes to."""

    takers: frozenset[str]
    header: Header
    payload: bytes


@dataclass(slots=True)
class Disk:
    """What was committed; `mode` says how it behaves: `ok`, `slow`, `full`, `broken` or `hangs`."""

    batches: dict[int, StoredBatch] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    answers: OrderedDict[Identity, StoredAnswer] = field(default_factory=OrderedDict)
    last: int = 0
    mode: str = "ok"
    commits: int = 0
    applied: Applied = field(default_factory=lambda: Applied())

    def states(self) -> dict[str, OutletState]:
        """Return how far each outlet is."""
        states = {}
        for name, cursor in self.cursors.items():
            mine = [b for at, b in self.batches.items() if at > cursor and name in b.takers]
            size = sum(weigh(len(b.payload)) for b in mine)
            states[name] = OutletState(name, cursor, len(mine), sum(b.header.events for b in mine), size)
        return states

    def takers(self, first: int, last: int) -> list[tuple[int, int, tuple[str, ...]]]:
        """Return the positions between two that hold a batch, its number of events, and the outlets that await it."""
        return [
            (
                at,
                batch.header.events,
                tuple(name for name, cursor in self.cursors.items() if name in batch.takers and cursor < at),
            )
            for at, batch in sorted(self.batches.items())
            if first <= at <= last
        ]

    def sweep(self) -> None:
        """Delete what no outlet waits for."""
        for at in [at for at, b in self.batches.items() if all(self.cursors.get(n, at) >= at for n in b.takers)]:
            del self.batches[at]


class Applied:
    """What buffers took in, to see that what a push brings is applied once for each outlet, however often it comes."""

    def __init__(self) -> None:
        self._told: set[tuple[Identity, int, str]] = set()
        self._untold: dict[tuple[Identity, str, str], object] = {}

    def add(self, ledger: Ledger, row: tuple[int, StoredBatch], answer: StoredAnswer | None, *, life: object) -> None:
        """Learn of a batch that was committed with an answer, or without one, in a life of the buffer."""
        position, batch = row
        identity = batch.header.identity
        place = None if answer is None else answer.place(position) if answer.pieces else 0
        if identity is None:
            return
        self._add_untold(ledger, batch, is_told=place is not None, life=life)
        if place is None:
            return
        for at in range(place, place + batch.header.events):
            for name in sorted(batch.takers):
                if (identity, at, name) in self._told:
                    ledger.fault(f"twice: the buffer applied event {at} of {identity} for {name} twice")
                self._told.add((identity, at, name))

    def _add_untold(self, ledger: Ledger, batch: StoredBatch, *, is_told: bool, life: object) -> None:
        """See that what was applied without an answer is not applied again by another life of the buffer."""
        identity = batch.header.identity
        assert identity is not None
        for event in EventPayload.FromString(batch.payload).events if self._untold or not is_told else ():
            for name in sorted(batch.takers):
                key = (identity, f"{event.id} {' '.join(tokens_of(event))}", name)
                if self._untold.get(key, life) is not life:
                    ledger.fault(f"twice: the buffer applied {key[1]} of {identity} for {name} twice")
                if not is_told:
                    self._untold[key] = life


@dataclass(slots=True)
class _Unit:
    done: asyncio.Future[None]
    rows: list[tuple[int, StoredBatch]]
    answer: StoredAnswer | None


class ModelLog:
    """The contract of `polku.buffer.log.Log` on a simulated disk."""

    orphans: Sequence[OutletState] = ()

    def __init__(self, world: World, disk: Disk, *, path: str, final: bool, window: int = 4096) -> None:
        self.window = window
        self._world = world
        self._disk = disk
        self._path = path
        self._final = final
        self._fault = ""
        self._draft: list[tuple[int, StoredBatch]] = []
        self._units: list[_Unit] = []
        self._refused: list[tuple[Identity, Sequence[Refusal]]] = []
        self._cursors: dict[str, int] = {}
        self._claimed: dict[str, OrderedDict[int, None]] = {}
        self._latest: dict[str, int] = {}
        self._held = self._position = 0
        self._pending: dict[int, Batch] = {}
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = False
        self._is_writing = False

    async def open(self, outlets: Sequence[str], on_open: OnOpen) -> None:
        """Open it and tell what it holds; outlets that are new begin at its end."""
        disk = self._disk
        for name in outlets:
            disk.cursors.setdefault(name, disk.last)
        disk.sweep()
        self._claimed = {name: OrderedDict() for name in outlets}
        self._position = self._held = disk.last
        states = disk.states()
        self._latest = {name: states[name].cursor for name in outlets}
        recovered = Recovered({name: states[name] for name in outlets}, list(disk.answers.values()), disk.takers)
        on_open(recovered)
        self._writer = asyncio.ensure_future(self._write_for_ever())

    async def arrange(self, outlets: Sequence[str], renamed: Mapping[str, str]) -> None:
        """Have these outlets from now on."""
        while self._units or self._is_writing:  # noqa: ASYNC110 - as the thread does, it writes first what waits
            await asyncio.sleep(0.001)
        await asyncio.sleep(self._latency())
        if self._disk.mode in ("broken", "full"):
            raise JournalError(self._path, "cannot be written now")
        self._write([])
        for new, old in renamed.items():
            self._rename(old, new)
        for name in outlets:
            self._disk.cursors.setdefault(name, self._disk.last)
            self._claimed.setdefault(name, OrderedDict())
            self._latest.setdefault(name, self._disk.cursors[name])

    def _rename(self, old: str, new: str) -> None:
        self._claimed[new], self._latest[new] = self._claimed.pop(old), self._latest.pop(old)
        self._disk.cursors[new] = self._disk.cursors.pop(old)
        if old in self._cursors:
            self._cursors[new] = self._cursors.pop(old)
        for batch in self._disk.batches.values():
            batch.takers = frozenset(new if name == old else name for name in batch.takers)

    async def forget(self, outlet: str) -> None:
        """Have an outlet no more."""
        if self._disk.mode in ("broken", "full"):
            raise JournalError(self._path, "cannot be written now")
        self._write([])
        for known in (self._claimed, self._latest, self._cursors, self._disk.cursors):
            known.pop(outlet, None)

    async def put(self, batch: Batch, takers: Sequence[str]) -> LogSlot:
        """Give a batch its place."""
        self._position += 1
        self._draft.append((self._position, StoredBatch(frozenset(takers), batch.header, batch.payload)))
        self._pending[self._position] = batch
        return LogSlot(self._position, len(batch), self.weigh(batch), batch.enqueued_ns)

    def commit(self, answer: StoredAnswer | None) -> asyncio.Future[None]:
        """Write what was put since the last commit."""
        unit = _Unit(asyncio.get_running_loop().create_future(), self._draft, answer)
        self._draft = []
        self._units.append(unit)
        self._wake.set()
        return unit.done

    def amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        """Add refusals to an answer."""
        self._refused.append((identity, refused))

    async def fetch(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches."""
        if self._world.random.random() < 0.3:
            await asyncio.sleep(self._world.random.random() * 0.001)
        if self._disk.mode == "broken" and self._world.random.random() < 0.5:
            raise JournalError(self._path, "cannot be read")
        return [self._read(position) for position in positions]

    async def peek(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches."""
        return await self.fetch(positions)

    async def next_slots(self, outlet: str, after: int, limit: int) -> list[LogSlot]:
        """Return the next places with batches for an outlet."""
        upto = self._held
        await asyncio.sleep(self._world.random.random() * 0.001)
        if self._disk.mode == "broken":
            raise JournalError(self._path, "cannot be read")
        found = sorted(at for at, b in self._disk.batches.items() if after < at <= upto and outlet in b.takers)
        return [self._slot(at) for at in found[:limit]]

    def claim(self, outlet: str, position: int) -> None:
        """Let an outlet begin with a batch."""
        self._claimed[outlet][position] = None
        self._latest[outlet] = position

    def release(self, outlet: str, position: int) -> None:
        """Move the outlet's cursor up to the first batch that it is not done with."""
        claimed = self._claimed[outlet]
        del claimed[position]
        self._cursors[outlet] = next(iter(claimed)) - 1 if claimed else self._latest[outlet]
        self._wake.set()

    def weigh(self, batch: Batch) -> int:
        """Return the bytes that the batch takes."""
        return weigh(batch.size)

    @property
    def size(self) -> tuple[int, int]:
        """The events and bytes that are held now."""
        rows = [*self._disk.batches.values(), *(row for unit in self._units for _, row in unit.rows)]
        rows += [row for _, row in self._draft]
        return sum(row.header.events for row in rows), sum(weigh(len(row.payload)) for row in rows)

    @property
    def fault(self) -> str:
        """Why nothing can be held now."""
        return self._fault

    @property
    def commits(self) -> int:
        """The number of transactions so far."""
        return self._disk.commits

    async def close(self) -> None:
        """Write the last cursors."""
        self._closing = True
        self._wake.set()
        if self._writer is not None:
            await self._writer

    async def _write_for_ever(self) -> None:
        while not (self._closing and not self._units):
            if not self._units and not self._closing:
                self._wake.clear()
                await self._wait()
            units, self._units = self._units, []
            self._is_writing = True
            await asyncio.sleep(self._latency())
            self._is_writing = False
            if self._disk.mode == "broken" or (self._disk.mode == "full" and any(unit.rows for unit in units)):
                self._fail(units)
                if self._disk.mode == "full":
                    self._write([])
                continue
            self._write(units)
        self._write([])

    async def _wait(self) -> None:
        """Return when there is something to do: also to look whether the disk can be written again."""
        pause = 1.0 if self._fault else None
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        if not self._units:
            await asyncio.sleep(0.05)  # cursors alone wait a moment

    def _latency(self) -> float:
        latency = 0.003 * self._world.random.random()
        if self._disk.mode == "slow":
            latency += 0.7 * self._world.random.random()
        if self._disk.mode == "hangs":
            latency += 5.0
        return latency

    def _fail(self, units: Sequence[_Unit]) -> None:
        reason = "the disk is full" if self._disk.mode == "full" else "input/output error"
        error = JournalError(self._path, reason)
        self._fault = str(error)
        for unit in units:
            for position, _ in unit.rows:
                self._pending.pop(position, None)
            if not unit.done.done():
                unit.done.set_exception(error)

    def _write(self, units: Sequence[_Unit]) -> None:
        disk = self._disk
        disk.commits += bool(units)
        for unit in units:
            for position, row in unit.rows:
                disk.applied.add(self._world.ledger, (position, row), unit.answer, life=self)
                disk.batches[position] = row
                disk.last = max(disk.last, position)
            if unit.answer is not None:
                disk.answers[unit.answer.identity] = unit.answer
        for name, cursor in self._cursors.items():
            disk.cursors[name] = max(cursor, disk.cursors[name])
        for identity, refused in self._refused:
            answer = disk.answers.get(identity)
            if answer is not None:
                disk.answers[identity] = replace(answer, refused=(*answer.refused, *refused))
        self._refused.clear()
        disk.sweep()
        self._forget_answers()
        self._fault = ""
        for unit in units:
            for position, _ in unit.rows:
                self._held = max(self._held, position)
                self._pending.pop(position, None)
            if not unit.done.done():
                unit.done.set_result(None)

    def _forget_answers(self) -> None:
        answers = self._disk.answers
        if len(answers) <= KEPT_ANSWERS:
            return
        for identity in list(answers)[: len(answers) - KEPT_ANSWERS]:
            first, last = answers[identity].first, answers[identity].last
            if self._final or not any(first <= at <= last for at in self._disk.batches):
                del answers[identity]

    def _read(self, position: int) -> Batch | None:
        if position in self._pending:
            return self._pending[position]
        row = self._disk.batches.get(position)
        return None if row is None else Batch.from_wire(row.header, row.payload)

    def _slot(self, position: int) -> LogSlot:
        row = self._disk.batches[position]
        return LogSlot(position, row.header.events, weigh(len(row.payload)), row.header.enqueued_ns)
