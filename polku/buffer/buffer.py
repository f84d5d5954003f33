"""Hold batches until every destination has them: one log, one outlet for each emitter.

A batch's life here: `push` → known already? answer as then → cut into stretches with the same routes → room made or
waited for in every outlet concerned → put into the log once → held there (in memory at once, on disk after a commit) →
claimed by its outlets, each of which delivers it at its own pace → the last one lets go of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from polku.batch import Batch, Identity
from polku.buffer.entry import Answer, Awaited, Slot
from polku.buffer.log import Recovered, open_log
from polku.buffer.outlet import Outlet, OutletStatistics, Share
from polku.buffer.strategy import BufferStrategy, Overflow
from polku.codes import Code
from polku.dead_letters import DeadLetters, DeadLetterStatistics
from polku.errors import JournalError
from polku.link import Link
from polku.receipt import Counts, Receipt, Refusal, shifted


class BufferStatistics(NamedTuple):
    """Show what the buffer holds and has done; `events` and `bytes` are held now, each once.

    `fault` says why nothing can be written to disk now.
    """

    events: int
    bytes: int
    capacity: int
    received: int
    duplicates: int
    overflowed: int
    unroutable: int
    outlets: Mapping[str, OutletStatistics]
    fault: str = ""
    dead_letters: DeadLetterStatistics | None = None


class Buffer:
    """Keep batches in a log and feed the outlets."""

    def __init__(
        self,
        strategy: BufferStrategy,
        links: Mapping[str, Link],
        dead_letters: DeadLetters,
        *,
        overflow: Mapping[str, Overflow] | None = None,
        best_effort: Collection[str] = (),
        await_delivery: bool = False,
    ) -> None:
        self._strategy = strategy
        self._dead_letters = dead_letters
        self._await_delivery = await_delivery
        self._best_effort = frozenset(best_effort)
        self._log = open_log(strategy, final=not await_delivery)
        self._awaited: dict[int, Awaited] = {}
        rules = overflow or {}
        self._outlets = {
            name: self._outlet(name, link, rules.get(name, strategy.overflow)) for name, link in links.items()
        }
        self._all = tuple(self._outlets.values())
        self._answered = Answered()
        self._turn = asyncio.Lock()
        self._running: list[asyncio.Task[None]] = []
        self._received = self._duplicates = self._overflowed = self._unroutable = 0

    async def open(self) -> None:
        """Open the log and go on where it was closed; raises `JournalLockedError` where another process has it."""
        await self._log.open(tuple(self._outlets), self._recover)

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
            else:
                known = await self._take_in(batch)
                self._answered.put(batch.identity, known)
        if self._await_delivery or isinstance(known, Receipt):
            return known
        return await asyncio.shield(known)

    async def flush(self, everything: bool = True) -> None:
        """Let emitters that collect complete what they have, at a drain: senders may wait for it."""
        for outlet in self._all:
            outlet.flush()

    async def drain(self) -> None:
        """Return when every outlet has delivered what it holds."""
        await asyncio.gather(*(outlet.drain() for outlet in self._all))

    async def close(self) -> None:
        """Stop delivering; what is held stays held."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(outlet.close() for outlet in self._all))
        await self._log.close()

    def statistics(self) -> BufferStatistics:
        """Return a snapshot of the counters."""
        events, size = self._log.size
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
            self._log.fault,
            self._dead_letters.statistics(),
        )

    def _outlet(self, name: str, link: Link, overflow: Overflow) -> Outlet:
        share = Share(self._strategy.capacity, self._strategy.max_bytes, overflow)
        awaited = {} if name in self._best_effort else self._awaited  # senders hear nothing of best effort
        return Outlet(name, link, share, self._log, awaited, bury=self._dead_letters.bury, let_go=self._let_go)

    def _recover(self, recovered: Recovered) -> None:
        """Take over what a log held when it was opened."""
        for name, state in recovered.outlets.items():
            self._outlets[name].recover(state)
        for answer in recovered.answers:
            self._answered.put(answer.identity, self._recovered_answer(answer, recovered))

    def _recovered_answer(self, answer: Answer, recovered: Recovered) -> Receipt | asyncio.Future[Receipt]:
        receipt = self._receipt(answer.refused)
        if not self._await_delivery:
            return receipt
        waits = []
        for position, takers in recovered.takers(answer.first, answer.last):
            owners = [name for name in takers if name in self._outlets and name not in self._best_effort]
            if owners:
                waits.append(self._await(position, len(owners), answer.identity))
        if not waits:
            return receipt
        return asyncio.ensure_future(self._settle(_Filing(answer.identity, list(answer.refused), waits), None))

    async def _take_in(self, batch: Batch) -> Receipt | asyncio.Future[Receipt]:
        self._received += len(batch)
        filing = _Filing(batch.identity)
        start = 0
        for piece in batch.runs():
            await self._admit(piece.sealed(), self._targets(piece, start, filing.refused), filing, start)
            start += len(piece)
        self._commit(filing, last=True)
        if not filing.held and not filing.waits:
            return self._receipt(filing.refused)
        return asyncio.ensure_future(self._settle(filing, batch))

    def _targets(self, piece: Batch, start: int, refused: list[Refusal]) -> tuple[Outlet, ...]:
        if not piece.routes:
            return self._all
        known = tuple(self._outlets[name] for name in dict.fromkeys(piece.routes) if name in self._outlets)
        unknown = [name for name in piece.routes if name not in self._outlets]
        if unknown:
            self._unroutable += len(piece)
            reason = (
                f"route_to={list(piece.routes)}: no emitter is called {unknown[0]!r}; known are {sorted(self._outlets)}"
            )
            refusals = _refuse_all(piece, Code.UNROUTABLE, reason)
            self._dead_letters.bury("", piece, refusals)
            if not known:
                refused.extend(shifted(refusals, start))
        return known

    async def _admit(self, piece: Batch, outlets: tuple[Outlet, ...], filing: _Filing, start: int) -> None:
        """Put a piece into the log and into its outlets, in parts where one outlet cannot take it whole.

        `start` is where its first event stands in the batch that was pushed.
        """
        while len(piece) and outlets:
            part = _largest_part(piece, outlets)
            head, piece = (piece, Batch.from_events([])) if part == len(piece) else piece.split(part)
            takers = [outlet for outlet in outlets if await self._make_room(outlet, head, filing, start)]
            start += part
            if not takers:
                continue
            slot = await self._log.put(head, [outlet.name for outlet in takers])
            for outlet in takers:
                outlet.reserve(slot)
            filing.drafted.append((slot, takers))
            filing.first, filing.last = filing.first or slot.position, slot.position
            owners = sum(outlet.name not in self._best_effort for outlet in takers) if self._await_delivery else 0
            if owners:
                filing.waits.append(self._await(slot.position, owners, filing.identity, start - part))

    async def _make_room(self, outlet: Outlet, head: Batch, filing: _Filing, start: int) -> bool:
        count, size = len(head), self._log.weigh(head)
        if outlet.fits(count, size):
            return True
        if outlet.share.overflow is not Overflow.DROP_NEWEST:
            self._commit(filing, last=False)  # room comes when what was put before is delivered
        if outlet.share.overflow is Overflow.BLOCK:
            await outlet.wait_for_room(count, size)
            return True
        if outlet.share.overflow is Overflow.DROP_OLDEST:
            self._overflowed += await outlet.drop_oldest(count, size)
            return True
        outlet.count_dropped(count)
        self._overflowed += count
        if outlet.name not in self._best_effort:
            share = f"{outlet.share.events} events or {outlet.share.bytes} bytes"
            reason = f"emitter {outlet.name!r} lags by its whole share of the buffer ({share}); send again later"
            filing.refused.extend(shifted(_refuse_all(head, Code.BUFFER_FULL, reason), start))
        return False

    def _commit(self, filing: _Filing, *, last: bool) -> None:
        """Have the log hold what was put; the outlets claim it as soon as it is held."""
        if not filing.drafted and not (last and filing.held):
            return
        drafted, filing.drafted = filing.drafted, []
        held = self._log.commit(filing.answer() if last else None)
        if held is None:
            self._claim(drafted)
        else:
            held.add_done_callback(lambda done: self._on_held(drafted, done))
            filing.held.append(held)

    def _claim(self, drafted: Sequence[tuple[Slot, Sequence[Outlet]]]) -> None:
        for slot, takers in drafted:
            for outlet in takers:
                outlet.claim(slot)

    def _on_held(self, drafted: Sequence[tuple[Slot, Sequence[Outlet]]], held: asyncio.Future[None]) -> None:
        if held.cancelled() or held.exception() is None:
            self._claim(drafted)
            return
        for slot, takers in drafted:
            for outlet in takers:
                outlet.cancel(slot)
            if slot.position in self._awaited:
                self._awaited.pop(slot.position).done.set_result(None)

    def _await(self, position: int, owners: int, identity: Identity | None, start: int = 0) -> Awaited:
        awaited = self._awaited[position] = Awaited(owners, identity, start)
        return awaited

    def _let_go(self, outlet: str, position: int) -> None:
        awaited = self._awaited.get(position)
        if awaited is not None and awaited.identity is not None and (news := awaited.news()):
            self._log.amend(awaited.identity, news)
        self._log.let_go(outlet, position)
        if awaited is not None and outlet not in self._best_effort and awaited.let_go():
            del self._awaited[position]

    async def _settle(self, filing: _Filing, batch: Batch | None) -> Receipt:
        """Wait until what was put is held, and delivered where the sender waits for that."""
        try:
            for held in filing.held:
                await asyncio.shield(held)
        except JournalError as error:
            reason = f"{error}; send again later"
            everything = _refuse_all(batch, Code.BUFFER_FULL, reason) if batch is not None else ()
            return self._receipt([*filing.refused, *everything])
        refused = list(filing.refused)
        for awaited in filing.waits:
            await asyncio.shield(awaited.done)
            refused.extend(awaited.refused)
        return self._receipt(refused)

    def _receipt(self, refused: Sequence[Refusal]) -> Receipt:
        fullest = max((outlet.lag for outlet in self._all), default=0)
        counts = Counts(overflowed=self._overflowed, forwarded=self._received)
        return Receipt(_each_once(refused), counts, fullest, self._strategy.capacity)


@dataclass(slots=True)
class _Filing:
    """What becomes of one push: what lies in the log's draft, what is on its way to be held, who waits for it."""

    identity: Identity | None
    refused: list[Refusal] = field(default_factory=list)
    waits: list[Awaited] = field(default_factory=list)
    drafted: list[tuple[Slot, Sequence[Outlet]]] = field(default_factory=list)
    held: list[asyncio.Future[None]] = field(default_factory=list)
    first: int = 0
    last: int = -1

    def answer(self) -> Answer | None:
        """Return the answer as far as it is known when the batch is held."""
        if self.identity is None:
            return None
        return Answer(self.identity, self.first, self.last, tuple(self.refused))


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


def _refuse_all(batch: Batch, code: Code, reason: str) -> tuple[Refusal, ...]:
    """Refuse every event of a batch."""
    return tuple(Refusal(event_id, code, reason, position=place) for place, event_id in enumerate(batch.ids))


def _each_once(refused: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """Keep one refusal for each event: two outlets may have refused the same one."""
    found = {(refusal.position, refusal.event_id): refusal for refusal in reversed(refused)} if refused else {}
    return tuple(found.values())[::-1]


def _largest_part(piece: Batch, outlets: Sequence[Outlet]) -> int:
    """Return how many of the piece's first events every outlet can deal with in one go."""
    part = len(piece)
    for outlet in outlets:
        part = min(part, outlet.piece)
        if outlet.share.overflow is Overflow.DROP_NEWEST and 0 < outlet.room < part:
            part = outlet.room
    return part
