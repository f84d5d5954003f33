"""How a batch gets into the log and into its outlets.

```text
 a piece ─► its head, which each outlet can take ─► room in each? ── HERE ──► put ─► committed: held ─► claimed
                           ▲                            │ LATER
                           └── the queue of the outlet ◄┤
                                                        └ NONE ─► dropped by rule, counted, refused
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from enum import Enum

from polku.aio.sequencer import Ticket
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Counts, Fate, Receipt, Refusal, shifted, weightier
from polku.buffer.log import Log
from polku.buffer.outlet import Outlet
from polku.buffer.outlets import Outlets
from polku.buffer.positions import PendingDelivery
from polku.buffer.push_state import Draft, PushState
from polku.buffer.remembered import answer_of
from polku.buffer.statistics import BufferCounts
from polku.buffer.strategy import Overflow
from polku.checks import shorten
from polku.codes import Code
from polku.dead_letters import DeadLetters
from polku.errors import DrainingError, JournalError
from polku.tap.point import Note, TapPoint
from polku.tap.request import What
from polku.text import line


class OutletRoom(Enum):
    """Whether an outlet takes some events now, later, or drops them."""

    NOW = 1
    LATER = 2
    DROP = 3


class Enqueuer:
    """Put pushes into the log and into their outlets, and learn what becomes of them.

    `turn` is held by who calls `take_in`, so that pushes keep their order. `pending` are the batches whose senders wait
    for their delivery, by position; it is filled where a push `awaits` it.
    """

    def __init__(
        self,
        log: Log,
        outlets: Outlets,
        dead_letters: DeadLetters,
        turn: asyncio.Lock,
        pending: dict[int, PendingDelivery],
    ) -> None:
        self.tap: TapPoint | None = None
        self.counts = BufferCounts()
        self._log = log
        self._outlets = outlets
        self._dead_letters = dead_letters
        self._turn = turn
        self._pending = pending
        self._late = TaskSet("buffer")  # each waits for room in one outlet
        self.is_closed = False

    async def close(self) -> None:
        """Wait for room no longer."""
        self.is_closed = True
        await self._late.close()

    async def take_in(
        self, pieces: Sequence[Batch], push: PushState, *, wants_fates: bool
    ) -> Receipt | asyncio.Future[Receipt]:
        """Put the pieces of a push in; return its receipt, or the future of it where something is waited for."""
        self.counts.received += sum(map(len, pieces))
        push.wants_fates = wants_fates
        start = 0
        for piece in pieces:
            outlets = self._targets(piece, start, push)
            sealed = piece.sealed()
            self.counts.bytes_received += sealed.size
            sealed.identity = push.identity
            sealed.wants_fates = False  # it ends here: what emitters do with an event counts as nothing of this
            if push.resumed:
                await self._resume(sealed, outlets, push, start)
            else:
                await self._admit(sealed, outlets, push, start)
            start += len(piece)
        if push.held:
            await self._see_held(push)
        self._commit(push)
        return self.receipt(push.refused, push.fates) if push.is_settled else self.receipt_later(push)

    def _targets(self, piece: Batch, start: int, push: PushState) -> tuple[Outlet, ...]:
        if not piece.routes:
            return self._outlets.all
        by_name = self._outlets.by_name
        known = tuple(by_name[name] for name in dict.fromkeys(piece.routes) if name in by_name)
        unknown = [name for name in piece.routes if name not in by_name]
        if unknown:
            self.counts.unroutable += len(piece)
            names = line(sorted(by_name))
            reason = (
                f"route_to={shorten(list(piece.routes))}: no emitter is called {shorten(unknown[0])}; known are {names}"
            )
            refusals = _refuse_all(piece, Code.UNROUTABLE, reason)
            if self.tap is not None:
                self.tap.show(What.DEAD, piece, notes=_notes(refusals))
            stored = self._dead_letters.bury("", piece, refusals)
            if stored is not None:
                push.letters.append(stored)
            if not known:
                push.refused.extend(shifted([one._replace(letter=True) for one in refusals], start))
        return tuple(dict.fromkeys((*known, *self._outlets.always))) if self._outlets.always else known

    async def _resume(self, piece: Batch, outlets: Sequence[Outlet], push: PushState, start: int) -> None:
        """Put in what each outlet does not have yet of a piece that a past life of this buffer dealt with in part."""
        for outlet in outlets:
            done = max(push.taken.get(outlet.name, 0) - start, 0)
            if done < len(piece):
                rest = piece.split(done)[1] if done else piece
                await self._admit(rest, (outlet,), push, start + done)

    async def _admit(self, piece: Batch, outlets: Sequence[Outlet], push: PushState, start: int) -> None:
        """Put a piece into the log and into its outlets, head by head where one outlet cannot take it whole.

        `start` is where its first event stands in the batch that was pushed.
        """
        while len(piece) and outlets:
            head, rest = _cut(piece, _largest_head(piece, outlets))
            rooms = [(outlet, await self._make_room(outlet, head, push, start)) for outlet in outlets]
            await self._put(head, [outlet for outlet, room in rooms if room is OutletRoom.NOW], push, start)
            for outlet, room in rooms:
                if room is OutletRoom.LATER:
                    self._admit_when_room(outlet, piece, push, start)
                else:
                    push.taken[outlet.name] = start + len(head)
            outlets = [outlet for outlet, room in rooms if room is not OutletRoom.LATER]
            start += len(head)
            piece = rest

    async def _put(self, head: Batch, takers: Sequence[Outlet], push: PushState, start: int) -> None:
        if not takers:
            return
        slot = await self._log.put(head, [outlet.name for outlet in takers])
        if self.tap is not None:
            self.tap.show(What.OUT, head, reason=f"held for {', '.join(outlet.name for outlet in takers)}")
        for outlet in takers:
            outlet.reserve(slot)
        best_effort = self._outlets.best_effort
        owners = [outlet.name for outlet in takers if outlet.name not in best_effort] if push.awaits else ()
        pending = self.register_pending(slot.position, owners, len(head), push.identity, start) if owners else None
        if pending is not None:
            push.waits.append(pending)
        push.drafts.append(Draft(slot, takers, start, head, pending))
        push.pieces.append((slot.position, start))

    async def _make_room(self, outlet: Outlet, head: Batch, push: PushState, start: int) -> OutletRoom:
        count, size = len(head), self._log.weigh(head)
        if outlet.queue.is_over and outlet.usage.fits(count, size):
            return OutletRoom.NOW
        if outlet.usage.quota.overflow is Overflow.BLOCK:
            return OutletRoom.LATER
        if outlet.usage.quota.overflow is Overflow.DROP_OLDEST:
            self._commit(push, last=False)  # room comes when what was put before is delivered
            self.counts.overflowed += await outlet.drop_oldest(count, size)
            return OutletRoom.NOW
        outlet.count_dropped(count)
        self.counts.overflowed += count
        push.count_dropped(range(start, start + count))
        if outlet.tap is not None:
            outlet.tap.show(What.DROPPED, head, reason="its share of the buffer was full, and this came last")
        if outlet.name not in self._outlets.best_effort:
            share = f"{outlet.usage.quota.events} events or {outlet.usage.quota.bytes} bytes"
            reason = f"emitter {outlet.name!r} has a full share of the buffer ({share}); send again later"
            push.refused.extend(self._refuse(head, reason, start))
        return OutletRoom.DROP

    def _refuse(self, piece: Batch, reason: str, start: int, code: Code = Code.BUFFER_FULL) -> list[Refusal]:
        """Refuse every event of a piece: for want of room, if not for another reason."""
        refusals = _refuse_all(piece, code, reason)
        if self.tap is not None:
            self.tap.show(What.REFUSED, piece, notes=_notes(refusals))
        return list(shifted(refusals, start))

    def _admit_when_room(self, outlet: Outlet, piece: Batch, push: PushState, start: int) -> None:
        """Begin to put a piece in for one outlet when there is room, behind what else waits for it."""
        push.taken.setdefault(outlet.name, start)
        push.unfinished += 1
        work = self._admit_late(outlet, outlet.queue.take(), piece, push, start)
        push.late.append(self._late.start("late", work))

    async def _admit_late(self, outlet: Outlet, ticket: Ticket, piece: Batch, push: PushState, start: int) -> None:
        try:
            await ticket.wait()
            while len(piece):
                head, piece = _cut(piece, min(len(piece), outlet.usage.piece))
                await outlet.wait_for_room(len(head), self._log.weigh(head))
                await self._see_held(push)
                async with self._turn:
                    await self._put(head, (outlet,), push, start)
                    start += len(head)
                    push.taken[outlet.name] = start
                    push.unfinished -= not len(piece)
                    self._commit(push)
        except asyncio.CancelledError:
            if self.is_closed:
                raise DrainingError(f"the buffer was closed before emitter {outlet.name!r} had room") from None
            raise
        finally:
            ticket.done()

    def _commit(self, push: PushState, *, last: bool = True) -> None:
        """Have the log hold what was put; the outlets claim it as soon as it is held.

        The stored answer is complete only with `last`, and once all dead letters are stored: else a buffer that is
        started again would report letters that were never written.
        """
        complete = last and not push.unfinished and not push.letters
        if not push.drafts and not (complete and push.pieces):
            return
        drafts, push.drafts = push.drafts, []
        held = self._log.commit(answer_of(push, complete=complete))
        if held is None:
            self._claim(drafts)
        else:
            held.add_done_callback(lambda done: self._on_held(drafts, done))
            push.held.append((held, drafts))

    def _claim(self, drafts: Sequence[Draft]) -> None:
        for slot, takers, _, _, pending in drafts:
            for outlet in takers:
                outlet.claim(slot)
            if pending is not None:
                pending.is_held = True

    def _on_held(self, drafts: Sequence[Draft], held: asyncio.Future[None]) -> None:
        if held.cancelled() or held.exception() is None:
            self._claim(drafts)
            return
        for draft in drafts:
            for outlet in draft.takers:
                outlet.usage.cancel(draft.slot)
            if draft.pending is not None:
                draft.pending.done.set_result(None)
                if self._pending.get(draft.slot.position) is draft.pending:
                    del self._pending[draft.slot.position]

    async def _see_held(self, push: PushState) -> None:
        """Wait until what was committed is held; what could not be written is refused."""
        while push.held:
            held, drafts = push.held[0]
            try:
                await asyncio.shield(held)
            except JournalError as error:
                code, reason = Code.DRAINING if self.is_closed else Code.BUFFER_FULL, f"{error}; send again later"
                for draft in drafts:
                    push.refused.extend(self._refuse(draft.piece, reason, draft.start, code))
            if push.held and push.held[0][0] is held:
                push.held.pop(0)

    def receipt_later(self, push: PushState) -> asyncio.Future[Receipt]:
        """Return the future of a push's receipt: everything that was put is held then, or delivered."""
        receipt = asyncio.ensure_future(self._wait_for_receipt(push))
        receipt.add_done_callback(_seen)
        return receipt

    async def _wait_for_receipt(self, push: PushState) -> Receipt:
        """Wait until what was put is held, and delivered where the sender waits for that."""
        for late in push.late:
            await asyncio.shield(late)
        await self._see_held(push)
        if push.letters:
            for stored in push.letters:
                await stored
            push.letters.clear()
            async with self._turn:
                self._commit(push)
        refused = list(push.refused)
        for pending in push.waits:
            await asyncio.shield(pending.done)
            refused.extend(pending.refused)
            push.count_dropped(pending.dropped)
        return self.receipt(refused, push.fates)

    def receipt(self, refused: Sequence[Refusal], fates: Sequence[Fate]) -> Receipt:
        """Return a receipt with the buffer's numbers of now."""
        fullest = max((outlet.usage.lag for outlet in self._outlets.all), default=0)
        counts = Counts(overflowed=self.counts.overflowed, forwarded=self.counts.received)
        ordered = tuple(sorted(fates)) if fates else ()
        return Receipt(_each_once(refused), counts, fullest, self._outlets.strategy.capacity, fates=ordered)

    def register_pending(
        self, position: int, owners: Iterable[str], events: int, identity: Identity | None, start: int = 0
    ) -> PendingDelivery:
        """Register that a sender waits for the delivery, by these outlets, of the events that lie at a position."""
        pending = self._pending[position] = PendingDelivery(owners, events, identity, start)
        return pending

    def release(self, outlet: str, position: int, *, is_gone: bool = False) -> None:
        """Let an outlet be done with a batch, which may be gone from the log; the last one answers who waits for it."""
        pending = self._pending.get(position)
        if pending is not None and is_gone:
            pending.lose(outlet)
        if pending is not None and pending.identity is not None and (news := pending.news()):
            self._log.amend(pending.identity, news)
        if not is_gone:
            self._log.release(outlet, position)
        if pending is not None and pending.release(outlet):
            del self._pending[position]


def _seen(settling: asyncio.Future[Receipt]) -> None:
    """Mark a failure as seen: who pushed may have gone."""
    if not settling.cancelled():
        settling.exception()


def _cut(piece: Batch, count: int) -> tuple[Batch, Batch]:
    return (piece, Batch.from_events([])) if count == len(piece) else piece.split(count)


def _refuse_all(batch: Batch, code: Code, reason: str) -> tuple[Refusal, ...]:
    """Refuse every event of a batch."""
    return tuple(Refusal(event_id, code, reason, position=place) for place, event_id in enumerate(batch.ids))


def _notes(refusals: Sequence[Refusal]) -> list[Note]:
    return [Note(refusal.position, refusal.code, refusal.message) for refusal in refusals]


def _each_once(refused: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """Keep one refusal for each event: two outlets may have refused the same one."""
    found: dict[tuple[int, str], Refusal] = {}
    for refusal in refused:
        event = (refusal.position, refusal.event_id)
        found[event] = weightier(found.get(event), refusal)
    return tuple(found.values())


def _largest_head(piece: Batch, outlets: Sequence[Outlet]) -> int:
    """Return how many of the piece's first events every outlet can deal with in one go."""
    head = len(piece)
    for outlet in outlets:
        head = min(head, outlet.usage.piece)
        if outlet.usage.quota.overflow is Overflow.DROP_NEWEST and 0 < outlet.usage.room < head:
            head = outlet.usage.room
    return head
