"""Hold batches until every destination has them: one log, one outlet for each emitter.

A batch's life here: `push` → known already? answer as then → cut into stretches with the same routes → room made or
waited for in every outlet concerned → put into the store once → each outlet delivers it at its own pace → the last
one lets go of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple

from polku.batch import Batch, Identity
from polku.buffer.entry import Entry
from polku.buffer.outlet import Outlet, OutletStatistics, Share
from polku.buffer.store import Store, open_store
from polku.buffer.strategy import BufferStrategy, Overflow
from polku.codes import Code
from polku.dead_letters import DeadLetters
from polku.link import Link
from polku.receipt import Counts, Receipt, Refusal


class BufferStatistics(NamedTuple):
    """Show what the buffer holds and has done; `events` and `bytes` are held now, each once."""

    events: int
    bytes: int
    capacity: int
    received: int
    duplicates: int
    overflowed: int
    unroutable: int
    outlets: Mapping[str, OutletStatistics]


class Buffer:
    """Hold batches in memory and feed the outlets."""

    def __init__(
        self,
        strategy: BufferStrategy,
        links: Mapping[str, Link],
        dead_letters: DeadLetters,
        *,
        overflow: Mapping[str, Overflow] | None = None,
        await_delivery: bool = False,
    ) -> None:
        self._strategy = strategy
        self._dead_letters = dead_letters
        self._await_delivery = await_delivery
        self._store: Store = open_store(strategy)
        rules = overflow or {}
        self._outlets = {
            name: self._outlet(name, link, rules.get(name, strategy.overflow)) for name, link in links.items()
        }
        self._all = tuple(self._outlets.values())
        self._answered = Answered()
        self._turn = asyncio.Lock()
        self._running: list[asyncio.Task[None]] = []
        self._received = self._duplicates = self._overflowed = self._unroutable = 0

    def start(self) -> None:
        """Begin to deliver."""
        self._running = [asyncio.get_running_loop().create_task(outlet.run()) for outlet in self._all]

    async def push(self, batch: Batch) -> Receipt | Awaitable[Receipt]:
        """Hold a batch; return its receipt once it is held, or what will be its receipt once it is delivered.

        Waits while an outlet that the batch goes to is full and its rule is `block`.
        """
        async with self._turn:
            known = self._answered.get(batch.identity)
            if known is not None:
                self._duplicates += 1
                return known
            self._received += len(batch)
            entries: list[Entry] = []
            refused: list[Refusal] = []
            for piece in batch.runs():
                await self._admit(piece.sealed(), self._targets(piece, refused), entries, refused)
            answer = self._answer(entries, refused)
            self._answered.put(batch.identity, answer)
            return answer

    async def drain(self) -> None:
        """Return when every outlet has delivered what it holds."""
        await asyncio.gather(*(outlet.drain() for outlet in self._all))

    async def close(self) -> None:
        """Stop delivering; what is held stays held."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(outlet.close() for outlet in self._all))

    def statistics(self) -> BufferStatistics:
        """Return a snapshot of the counters."""
        events, size = self._store.size
        outlets = {outlet.name: outlet.statistics() for outlet in self._all}
        return BufferStatistics(
            events,
            size,
            self._strategy.capacity,
            self._received,
            self._duplicates,
            self._overflowed,
            self._unroutable,
            outlets,
        )

    def _outlet(self, name: str, link: Link, overflow: Overflow) -> Outlet:
        share = Share(self._strategy.capacity, self._strategy.max_bytes, overflow)
        return Outlet(name, link, share, fetch=self._store.get, release=self._release, bury=self._dead_letters.bury)

    def _targets(self, piece: Batch, refused: list[Refusal]) -> tuple[Outlet, ...]:
        if not piece.routes:
            return self._all
        known = tuple(self._outlets[name] for name in dict.fromkeys(piece.routes) if name in self._outlets)
        if not known:
            self._unroutable += len(piece)
            reason = f"route_to={list(piece.routes)} names no emitter; known are {sorted(self._outlets)}"
            refusals = tuple(Refusal(event_id, Code.UNROUTABLE, reason) for event_id in piece.ids)
            self._dead_letters.bury("", piece, refusals)
            refused.extend(refusals)
        return known

    async def _admit(
        self, piece: Batch, outlets: tuple[Outlet, ...], entries: list[Entry], refused: list[Refusal]
    ) -> None:
        """Put a piece into the store and into its outlets, in parts where one outlet cannot take it whole."""
        while len(piece) and outlets:
            part = _largest_part(piece, outlets)
            head, piece = (piece, Batch.from_events([])) if part == len(piece) else piece.split(part)
            takers = [outlet for outlet in outlets if await self._make_room(outlet, head, refused)]
            if takers:
                done = asyncio.get_running_loop().create_future() if self._await_delivery else None
                entry = Entry(await self._store.put(head), head, len(takers), done)
                entries.append(entry)
                for outlet in takers:
                    outlet.claim(entry)

    async def _make_room(self, outlet: Outlet, head: Batch, refused: list[Refusal]) -> bool:
        count, size = len(head), head.size
        if outlet.fits(count, size):
            return True
        if outlet.share.overflow is Overflow.BLOCK:
            await outlet.wait_for_room(count, size)
            return True
        if outlet.share.overflow is Overflow.DROP_OLDEST:
            self._overflowed += await outlet.drop_oldest(count, size)
            return True
        outlet.count_dropped(count)
        self._overflowed += count
        share = f"{outlet.share.events} events or {outlet.share.bytes} bytes"
        reason = f"emitter {outlet.name!r} lags by its whole share of the buffer ({share}); send again later"
        refused.extend(Refusal(event_id, Code.BUFFER_FULL, reason) for event_id in head.ids)
        return False

    def _release(self, entry: Entry) -> None:
        entry.owners -= 1
        if entry.owners == 0:
            self._store.drop(entry.position)
            if entry.done is not None and not entry.done.done():
                entry.done.set_result(None)

    def _answer(self, entries: Sequence[Entry], refused: list[Refusal]) -> Receipt | asyncio.Future[Receipt]:
        if not self._await_delivery:
            return self._receipt(refused)
        return asyncio.ensure_future(self._delivered(entries, refused))

    async def _delivered(self, entries: Sequence[Entry], refused: list[Refusal]) -> Receipt:
        for entry in entries:
            if entry.done is not None:
                await entry.done
            refused.extend(entry.refused)
        return self._receipt(refused)

    def _receipt(self, refused: Sequence[Refusal]) -> Receipt:
        fullest = max((outlet.lag for outlet in self._all), default=0)
        counts = Counts(overflowed=self._overflowed, forwarded=self._received)
        return Receipt(tuple(refused), counts, fullest, self._strategy.capacity)


class Answered:
    """Remember the answers of the latest batches of each origin, for those that come a second time."""

    _KEPT = 256  # far more than a window; what is older and was answered cannot be sent again

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], dict[int, Receipt | asyncio.Future[Receipt]]] = {}

    def get(self, identity: Identity | None) -> Receipt | asyncio.Future[Receipt] | None:
        """Return the answer that a batch of this identity was given, if it was here."""
        if identity is None:
            return None
        return self._answers.get((identity.origin, identity.epoch), {}).get(identity.seq)

    def put(self, identity: Identity | None, answer: Receipt | asyncio.Future[Receipt]) -> None:
        """Remember an answer; a new life of an origin ends the memory of the old one."""
        if identity is None:
            return
        key = (identity.origin, identity.epoch)
        if key not in self._answers:
            self._answers = {k: v for k, v in self._answers.items() if k[0] != identity.origin}
            self._answers[key] = {}
        answers = self._answers[key]
        answers[identity.seq] = answer
        while len(answers) > self._KEPT and _is_final(answers[next(iter(answers))]):
            del answers[next(iter(answers))]


def _is_final(answer: Receipt | asyncio.Future[Receipt]) -> bool:
    return isinstance(answer, Receipt) or answer.done()


def _largest_part(piece: Batch, outlets: Sequence[Outlet]) -> int:
    """Return how many of the piece's first events every outlet can deal with in one go."""
    part = len(piece)
    for outlet in outlets:
        part = min(part, outlet.piece)
        if outlet.share.overflow is Overflow.DROP_NEWEST and 0 < outlet.room < part:
            part = outlet.room
    return part
