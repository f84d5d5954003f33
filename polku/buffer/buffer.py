"""Hold batches until every destination has them: one log, one outlet for each emitter.

A batch's life here: `push` → known already? answer as then → cut into stretches with the same routes → room made or
waited for in every outlet concerned → put into the log → held there (in memory at once, on disk after a commit) →
claimed by its outlets, each of which delivers it at its own pace → the last one releases it.

An outlet that is full and blocks holds up only what goes to it: the rest of the batch, and later batches for other
outlets, pass; what waits for it is put into the log for it alone, in order, when there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from polku.aio.sequencer import Ticket
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Accepted, Counts, Fate, Receipt, Refusal, shifted, weightier
from polku.buffer.answers import Answer, Answered, Known, answer_of
from polku.buffer.copies import Copy, Found, Search
from polku.buffer.log import Recovered, open_log
from polku.buffer.outlet import Outlet
from polku.buffer.positions import PendingDelivery, describe_orphan
from polku.buffer.push_state import Draft, PushState
from polku.buffer.quota import Quota
from polku.buffer.statistics import BufferStatistics
from polku.buffer.strategy import BufferStrategy, Overflow
from polku.checks import shorten
from polku.codes import Code
from polku.dead_letters import DeadLetters
from polku.errors import DrainingError, JournalError
from polku.hooks import close_each
from polku.link.link import Link
from polku.tap.point import Note, TapPoint
from polku.tap.request import What
from polku.text import line

_LEAVE_SECONDS = 0.05  # between two looks at an outlet that leaves


class OutletRules(NamedTuple):
    """What is chosen for outlets, by name: rules for what does not fit, who is not waited for, who gets everything."""

    overflow: Mapping[str, Overflow]
    best_effort: frozenset[str]
    always: frozenset[str]


class OutletChange(NamedTuple):
    """Which outlets are new, each with its link, which have another name (old by new), and which leave."""

    links: Mapping[str, Link]
    renamed: Mapping[str, str]
    leaving: Sequence[str]


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
        formerly: Mapping[str, str] | None = None,
        always: Collection[str] = (),
    ) -> None:
        self.tap: TapPoint | None = None
        self.steps = ()
        self._strategy = strategy
        self._dead_letters = dead_letters
        self._await_delivery = await_delivery
        self._rules = OutletRules(dict(overflow or {}), frozenset(best_effort), frozenset(always))
        self._log = open_log(strategy, final=not await_delivery, formerly=formerly)
        self._pending: dict[int, PendingDelivery] = {}
        self._outlets = {name: self._outlet(name, link) for name, link in links.items()}
        self._leaving: dict[str, Outlet] = {}  # deliver what they have, and get nothing more
        self._know_outlets()
        self._answered = Answered()
        self._turn = asyncio.Lock()
        self._late = TaskSet("buffer")  # each waits for room in one outlet
        self._closed = False
        self._received = self._duplicates = self._overflowed = self._unroutable = self._bytes_received = 0

    async def open(self) -> None:
        """Open the log and go on where it was closed; raises `JournalLockedError` where another process has it."""
        await self._log.open(tuple(self._outlets), self._recover)

    def start(self) -> None:
        """Begin to deliver."""
        for outlet in self._all:
            outlet.start()

    async def push(self, batch: Batch) -> Receipt | Accepted:
        """Hold a batch; return its receipt once it is held, or `Accepted` where senders wait for its delivery.

        Waits while an outlet that the batch goes to is full and its rule is `block`.
        """
        late: Sequence[asyncio.Task[None]] = ()
        async with self._turn:
            pieces = batch.runs()
            if self.tap is not None:
                self.tap.show(What.IN, batch)
            identity = None if batch.identity is None else _routed(batch.identity, pieces)
            known = self._answered.get(identity, batch)
            if known is None or isinstance(known, PushState):
                push = known or PushState(identity)
                known = await self._take_in(pieces, push, counted=batch.counted)
                self._answered.put(identity, known)
                late = push.late
            else:
                self._duplicates += 1
                if self.tap is not None:
                    self.tap.show(What.DROPPED, batch, reason="the same batch came again, and is here already")
        if isinstance(known, Receipt):
            return known
        if not self._await_delivery:
            return await asyncio.shield(known)
        if late:
            await asyncio.wait(late)
        return Accepted(known)

    @property
    def outlets(self) -> Mapping[str, Outlet]:
        """The outlets by the names of their emitters."""
        return self._outlets

    async def flush(self, everything: bool = True) -> None:
        """Let emitters that collect complete what they have, at a drain: senders may wait for it."""
        for outlet in self._every:
            outlet.flush()

    async def rearrange(
        self, strategy: BufferStrategy, rules: OutletRules, change: OutletChange, *, seconds: float
    ) -> None:
        """Have other outlets, or other rules for them, from the next batch on; what is held stays.

        `change.links` are those of outlets that are new. What waits for an outlet that is renamed waits for it under
        its new name. One that leaves delivers what it has; then `forget` ends it. Raises `JournalError`, and
        `TimeoutError` where a batch is on its way in for longer than `seconds`; then all is as it was.
        """
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(seconds):
                await stack.enter_async_context(self._turn)
            renamed = change.renamed
            former = {old: new for new, old in renamed.items()}
            names = [former.get(name, name) for name in (*self._outlets, *self._leaving)]
            await self._log.arrange([*names, *change.links], renamed)
            gone = self._best_effort & {*self._leaving, *change.leaving}
            self._strategy = strategy
            self._rules = rules._replace(best_effort=rules.best_effort | gone)
            for old, new in former.items():
                outlet = self._outlets.pop(old)
                outlet.rename(new)
                self._outlets[new] = outlet
                self._answered.rename(old, new)
            for name in change.leaving:
                self._leaving[name] = self._outlets.pop(name)
            for name, outlet in self._outlets.items():
                outlet.usage.allow(self._share(name))
            for name, link in change.links.items():
                self._outlets[name] = self._outlet(name, link)
                self._outlets[name].start()
            self._know_outlets()

    def outlet(self, name: str) -> Outlet:
        """Return the outlet of an emitter; raises `KeyError`."""
        return self._outlets[name] if name in self._outlets else self._leaving[name]

    async def forget(self, name: str) -> None:
        """End an outlet that leaves, once it has delivered what it has; raises `JournalError` where it cannot yet."""
        outlet = self._leaving[name]
        while outlet.usage.lag or not outlet.queue.is_over:
            await outlet.drain()
            await asyncio.sleep(_LEAVE_SECONDS)
        async with self._turn:
            await self._log.forget(name)
            del self._leaving[name]
            self._know_outlets()
        await outlet.close()

    async def drain(self) -> None:
        """Return when every outlet has delivered what it holds."""
        await asyncio.gather(*(outlet.drain() for outlet in self._every))

    def halt(self) -> None:
        """Hand nothing more to emitters."""
        for outlet in self._every:
            outlet.halt()

    async def settled(self) -> None:
        """Return, after `halt`, when everything that is in flight to emitters has its answer."""
        await asyncio.gather(*(outlet.settled() for outlet in self._every))

    async def close(self) -> None:
        """Stop delivering; what is held stays held."""
        self._closed = True
        await self._late.close()
        outlets = [(f"outlet {outlet.name!r}", outlet.close) for outlet in self._every]
        await close_each([*outlets, ("the log", self._log.close)])

    async def find(self, event_id: str) -> Found:
        """Return the copies of an event that wait or are in flight, and those of the latest that were delivered."""
        found = await Search(self._log, event_id).look({outlet.name: outlet.held() for outlet in self._all})
        confirmed = [(outlet.name, time_ns) for outlet in self._all for time_ns in outlet.delivered.times(event_id)]
        delivered = [Copy(f"emitter:{name}", "delivered", time_ns) for name, time_ns in confirmed]
        return found._replace(copies=(*found.copies, *delivered))

    def statistics(self) -> BufferStatistics:
        """Return a snapshot of the counters."""
        events, size = self._log.size
        all_ = self._all
        outlets = {outlet.name: outlet.statistics() for outlet in self._every}
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
            {orphan.name: describe_orphan(orphan, self._strategy.path) for orphan in self._log.orphans},
            tuple(outlet.name for outlet in all_ if outlets[outlet.name].is_full and self._holds_up(outlet)),
            self._bytes_received,
            self._log.commits,
        )

    def _holds_up(self, outlet: Outlet) -> bool:
        """Return whether senders hear of it when an outlet has no room: they wait, or are refused."""
        return outlet.usage.quota.overflow is Overflow.BLOCK or outlet.name not in self._best_effort

    @property
    def _best_effort(self) -> frozenset[str]:
        return self._rules.best_effort

    def _know_outlets(self) -> None:
        self._all = tuple(self._outlets.values())
        self._every = (*self._all, *self._leaving.values())
        self._always = tuple(outlet for outlet in self._all if outlet.name in self._rules.always)

    def _share(self, name: str) -> Quota:
        rule = self._rules.overflow.get(name, self._strategy.overflow)
        return Quota(self._strategy.capacity, self._strategy.max_bytes, rule)

    def _outlet(self, name: str, link: Link) -> Outlet:
        pending = {} if name in self._best_effort else self._pending  # senders hear nothing of best effort
        share = self._share(name)
        return Outlet(name, link, share, self._log, pending, bury=self._dead_letters.bury, release=self._release)

    def _recover(self, recovered: Recovered) -> None:
        """Take over what a log held when it was opened."""
        for name, state in recovered.outlets.items():
            self._outlets[name].recover(state)
        for answer in recovered.answers:
            self._answered.put(answer.identity, self._recovered_answer(answer, recovered))

    def _recovered_answer(self, answer: Answer, recovered: Recovered) -> Known:
        waits = self._recovered_waits(answer, recovered) if self._await_delivery else []
        push = PushState(answer.identity, list(answer.refused), waits, pieces=list(answer.pieces))
        if answer.taken is not None:
            push.taken, push.resumed = dict(answer.taken), True
            return push
        return self._receipt(answer.refused, ()) if push.is_settled else self._settling(push)

    def _recovered_waits(self, answer: Answer, recovered: Recovered) -> list[PendingDelivery]:
        waits = []
        for position, takers in recovered.takers(answer.first, answer.last):
            place = answer.place(position)
            owners = [name for name in takers if name in self._outlets and name not in self._best_effort]
            if owners and place is not None:
                waits.append(self._await(position, len(owners), answer.identity, place))
        return waits

    async def _take_in(
        self, pieces: Sequence[Batch], push: PushState, *, counted: bool
    ) -> Receipt | asyncio.Future[Receipt]:
        self._received += sum(map(len, pieces))
        push.counted = counted
        start = 0
        for piece in pieces:
            outlets = self._targets(piece, start, push)
            sealed = piece.sealed()
            self._bytes_received += sealed.size
            sealed.identity = push.identity
            sealed.counted = False  # it ends here: what emitters do with an event counts as nothing of this
            if push.resumed:
                await self._resume(sealed, outlets, push, start)
            else:
                await self._admit(sealed, outlets, push, start)
            start += len(piece)
        if push.held:
            await self._see_held(push)
        self._commit(push)
        return self._receipt(push.refused, push.fates) if push.is_settled else self._settling(push)

    def _targets(self, piece: Batch, start: int, push: PushState) -> tuple[Outlet, ...]:
        if not piece.routes:
            return self._all
        known = tuple(self._outlets[name] for name in dict.fromkeys(piece.routes) if name in self._outlets)
        unknown = [name for name in piece.routes if name not in self._outlets]
        if unknown:
            self._unroutable += len(piece)
            names = line(sorted(self._outlets))
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
        return tuple(dict.fromkeys((*known, *self._always))) if self._always else known

    async def _resume(self, piece: Batch, outlets: Sequence[Outlet], push: PushState, start: int) -> None:
        """Put in what each outlet does not have yet of a piece that a past life of this buffer dealt with in part."""
        for outlet in outlets:
            done = max(push.taken.get(outlet.name, 0) - start, 0)
            if done < len(piece):
                rest = piece.split(done)[1] if done else piece
                await self._admit(rest, (outlet,), push, start + done)

    async def _admit(self, piece: Batch, outlets: Sequence[Outlet], push: PushState, start: int) -> None:
        """Put a piece into the log and into its outlets, in parts where one outlet cannot take it whole.

        `start` is where its first event stands in the batch that was pushed.
        """
        while len(piece) and outlets:
            head, rest = _cut(piece, _largest_part(piece, outlets))
            rooms = [(outlet, await self._make_room(outlet, head, push, start)) for outlet in outlets]
            await self._put(head, [outlet for outlet, room in rooms if room is Room.HERE], push, start)
            for outlet, room in rooms:
                if room is Room.LATER:
                    self._wait_for_room(outlet, piece, push, start)
                else:
                    push.taken[outlet.name] = start + len(head)
            outlets = [outlet for outlet, room in rooms if room is not Room.LATER]
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
        owners = sum(outlet.name not in self._best_effort for outlet in takers) if self._await_delivery else 0
        pending = self._await(slot.position, owners, push.identity, start) if owners else None
        if pending is not None:
            push.waits.append(pending)
        push.drafts.append(Draft(slot, takers, start, head, pending))
        push.pieces.append((slot.position, start))

    async def _make_room(self, outlet: Outlet, head: Batch, push: PushState, start: int) -> Room:
        count, size = len(head), self._log.weigh(head)
        if outlet.queue.is_over and outlet.usage.fits(count, size):
            return Room.HERE
        if outlet.usage.quota.overflow is Overflow.BLOCK:
            return Room.LATER
        if outlet.usage.quota.overflow is Overflow.DROP_OLDEST:
            self._commit(push, last=False)  # room comes when what was put before is delivered
            self._overflowed += await outlet.drop_oldest(count, size)
            return Room.HERE
        outlet.count_dropped(count)
        self._overflowed += count
        push.count_dropped(range(start, start + count))
        if outlet.tap is not None:
            outlet.tap.show(What.DROPPED, head, reason="its share of the buffer was full, and this came last")
        if outlet.name not in self._best_effort:
            share = f"{outlet.usage.quota.events} events or {outlet.usage.quota.bytes} bytes"
            reason = f"emitter {outlet.name!r} lags by its whole share of the buffer ({share}); send again later"
            push.refused.extend(self._refuse(head, reason, start))
        return Room.NONE

    def _refuse(self, piece: Batch, reason: str, start: int) -> list[Refusal]:
        """Refuse every event of a piece for want of room."""
        refusals = _refuse_all(piece, Code.BUFFER_FULL, reason)
        if self.tap is not None:
            self.tap.show(What.REFUSED, piece, notes=_notes(refusals))
        return list(shifted(refusals, start))

    def _wait_for_room(self, outlet: Outlet, piece: Batch, push: PushState, start: int) -> None:
        """Put a piece in for one outlet when there is room, behind what else waits for it."""
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
            if self._closed:
                raise DrainingError(f"the buffer was closed before emitter {outlet.name!r} had room") from None
            raise
        finally:
            ticket.done()

    def _commit(self, push: PushState, *, last: bool = True) -> None:
        """Have the log hold what was put; the outlets claim it as soon as it is held.

        Without `last` there is more to come of this push, so that the answer that goes with it is not the whole one.
        """
        complete = last and not push.unfinished
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
        for slot, takers, *_ in drafts:
            for outlet in takers:
                outlet.claim(slot)

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

    def _await(self, position: int, owners: int, identity: Identity | None, start: int = 0) -> PendingDelivery:
        pending = self._pending[position] = PendingDelivery(owners, identity, start)
        return pending

    def _release(self, outlet: str, position: int) -> None:
        pending = self._pending.get(position)
        if pending is not None and pending.identity is not None and (news := pending.news()):
            self._log.amend(pending.identity, news)
        self._log.release(outlet, position)
        if pending is not None and outlet not in self._best_effort and pending.release():
            del self._pending[position]

    async def _see_held(self, push: PushState) -> None:
        """Wait until what was committed is held; what could not be written is refused."""
        while push.held:
            held, drafts = push.held[0]
            try:
                await asyncio.shield(held)
            except JournalError as error:
                reason = f"{error}; send again later"
                for draft in drafts:
                    push.refused.extend(self._refuse(draft.piece, reason, draft.start))
            if push.held and push.held[0][0] is held:
                push.held.pop(0)

    def _settling(self, push: PushState) -> asyncio.Future[Receipt]:
        settling = asyncio.ensure_future(self._settle(push))
        settling.add_done_callback(_seen)
        return settling

    async def _settle(self, push: PushState) -> Receipt:
        """Wait until what was put is held, and delivered where the sender waits for that."""
        for late in push.late:
            await asyncio.shield(late)
        await self._see_held(push)
        for stored in push.letters:
            await stored
        refused = list(push.refused)
        for pending in push.waits:
            await asyncio.shield(pending.done)
            refused.extend(pending.refused)
            push.count_dropped(pending.dropped)
        return self._receipt(refused, push.fates)

    def _receipt(self, refused: Sequence[Refusal], fates: Sequence[Fate]) -> Receipt:
        fullest = max((outlet.usage.lag for outlet in self._all), default=0)
        counts = Counts(overflowed=self._overflowed, forwarded=self._received)
        ordered = tuple(sorted(fates)) if fates else ()
        return Receipt(_each_once(refused), counts, fullest, self._strategy.capacity, fates=ordered)


class Room(Enum):
    """Whether an outlet has room for some events: here and now, later, or not at all: they are dropped."""

    HERE = 1
    LATER = 2
    NONE = 3


def _seen(settling: asyncio.Future[Receipt]) -> None:
    """Mark a failure as seen: who pushed may have gone."""
    if not settling.cancelled():
        settling.exception()


def _routed(identity: Identity, pieces: Sequence[Batch]) -> Identity:
    """Return the identity of a batch, as it is routed: what goes elsewhere when it comes again is another batch.

    Where all of it goes to the same emitters, its parts are those of what was routed so.
    """
    if len(pieces) > 1:
        return identity.made(_digest([(len(piece), piece.routes) for piece in pieces]))
    if not pieces[0].routes:
        return identity
    whole, place = identity.place
    routed = whole.made(_digest(pieces[0].routes))
    return routed if place is None else routed.part(place.start, len(place))


def _digest(routes: object) -> str:
    return hashlib.blake2b(repr(routes).encode(errors="backslashreplace"), digest_size=8).hexdigest()


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


def _largest_part(piece: Batch, outlets: Sequence[Outlet]) -> int:
    """Return how many of the piece's first events every outlet can deal with in one go."""
    part = len(piece)
    for outlet in outlets:
        part = min(part, outlet.usage.piece)
        if outlet.usage.quota.overflow is Overflow.DROP_NEWEST and 0 < outlet.usage.room < part:
            part = outlet.usage.room
    return part
