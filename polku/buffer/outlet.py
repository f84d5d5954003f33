"""The buffer's side of one emitter: what it has not confirmed yet, in order, and its share of the buffer.

Only an outlet moves past events, and only when they are confirmed, dead letters, or dropped by rule. It keeps the
places of the next batches at hand; where the log is on disk and it lags far behind, it asks the log for them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import accumulate

from polku.aio.sequencer import Sequencer
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, join
from polku.batch.receipt import Receipt, Refusal
from polku.buffer.copies import Held, RecentDeliveries
from polku.buffer.log import Log
from polku.buffer.passage import Passage
from polku.buffer.positions import OutletEntry, OutletState, PendingDelivery, Slot
from polku.buffer.quota import Quota
from polku.buffer.statistics import OutletStatistics
from polku.buffer.strategy import Overflow
from polku.codes import Code
from polku.errors import DrainingError, JournalError
from polku.link.link import Link, Window
from polku.log import RepeatedLog
from polku.tap.point import Note, TapPoint
from polku.tap.request import What
from polku.text import named
from polku.usercode import as_exception, is_ours

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_FLUSH_SECONDS = 0.05
_JOIN = Window()
_RELIEF_SECONDS = 0.02
_FEEDING = "feeding"
_RELEASE_SECONDS = 1.0  # for an emitter to say what is confirmed, and to end
_AGAIN_SECONDS = 1.0  # until a batch that the link gave back is pushed again

# So few events leave so long after the delivery before began, at the earliest: one costs nearly as much as a hundred.
# Calls one by one were a fifth more than with 1 ms (0.4 ms later end to end, p50); 4 ms gave no more of them.
_FEW = 128
_PAUSE_SECONDS = 0.002


Bury = Callable[[str, Batch, tuple[Refusal, ...]], Awaitable[None] | None]
LetGo = Callable[[str, int], None]


class Outlet:
    """Feed one emitter from the log, at its own pace; `pending` are the batches whose senders wait, by position."""

    def __init__(
        self,
        name: str,
        link: Link,
        share: Quota,
        log: Log,
        pending: Mapping[int, PendingDelivery],
        *,
        bury: Bury,
        release: LetGo,
    ) -> None:
        self.name = name
        self.tap: TapPoint | None = None
        self.steps = ()
        self.share = share
        self._link = link
        link.on_taken = self._relieve
        link.on_fault = self._note_fault
        self._fault = ""
        self._pressed = 0  # those who wait for room
        self._relief: asyncio.TimerHandle | None = None
        self._log = log
        self._pending = pending
        self._bury, self._release = bury, release
        self._waiting: deque[OutletEntry] = deque()
        self.queue = Sequencer()  # of those whose events are to be put in for this outlet when it has room
        self._behind = False  # there are more batches for this outlet than wait here
        self._arrived = 0
        self._loaded = 0
        self._loading = asyncio.Lock()
        self._lag = self._lag_bytes = self._in_flight = self._in_flight_bytes = 0
        self._reserved = self._reserved_bytes = 0  # on their way into the log
        self._unknown: list[OutletEntry] = []  # that are in flight, of which the link has told nothing
        self._confirmed = self._dead = self._dropped = self._unreadable = 0
        self._passage = Passage()
        self.delivered = RecentDeliveries()
        self._changed = asyncio.Event()
        self._moved: asyncio.Event = asyncio.Event()
        self._tasks = TaskSet(f"outlet {name!r}")
        self._gathering: asyncio.Future[None] | None = None
        self._began = 0.0  # when the latest delivery did, by the loop's clock
        # At most a quarter of the share in one batch: with two in flight, half of it can always be dropped.
        self._join_events = max(1, min(_JOIN.join_events, share.events // 4))

    def fits(self, events: int, size: int) -> bool:
        """Return whether that much more is within the share. An empty outlet takes anything."""
        if self._lag == 0:
            return True
        return self._lag + events <= self.share.events and self._lag_bytes + size <= self.share.bytes

    @property
    def piece(self) -> int:
        """The number of events that one entry may have."""
        return self._join_events if self.share.overflow is Overflow.DROP_OLDEST else self.share.events

    @property
    def room(self) -> int:
        """The number of events that still fit into the share."""
        return max(0, self.share.events - self._lag) if self._lag_bytes < self.share.bytes else 0

    @property
    def lag(self) -> int:
        """The events that are not confirmed yet."""
        return self._lag

    async def wait_for_room(self, events: int, size: int) -> None:
        """Return when that much more fits."""
        self._pressed += 1
        try:
            while not self.fits(events, size):
                self._moved.clear()
                self._relieve()
                await self._moved.wait()
        finally:
            self._pressed -= 1

    def reserve(self, slot: Slot) -> None:
        """Set aside room for a batch that is on its way into the log."""
        if not self._lag:
            self._passage.begin()
        self._reserve(slot.events, slot.size)
        self._account(slot.events, slot.size)

    def cancel(self, slot: Slot) -> None:
        """Give back what was set aside for a batch that never got into the log."""
        self._reserve(-slot.events, -slot.size)
        self._account(-slot.events, -slot.size)

    def claim(self, slot: Slot) -> None:
        """Add a batch of the log to what this outlet must deliver; its room is set aside."""
        self._reserve(-slot.events, -slot.size)
        self._arrived += 1
        if self._behind or len(self._waiting) >= self._log.window:
            self._behind = True
        else:
            self._append(slot, time.time_ns())
        self._changed.set()

    def recover(self, state: OutletState) -> None:
        """Go on where this outlet was when the log was closed."""
        self._loaded = state.cursor
        self._behind = state.batches > 0
        self._passage.begin(state.oldest_ns)
        self._account(state.events, state.bytes)
        self._changed.set()

    async def drop_oldest(self, events: int, size: int) -> int:
        """Drop waiting events, oldest first, until that much more fits; return how many were dropped.

        What is in flight to the emitter is not dropped.
        """
        dropped = 0
        while not self.fits(events, size) and await self._have_waiting():
            entry = self._waiting[0]
            is_needed = entry.slot.position in self._pending or self.tap is not None
            (batch,) = await self._fetch([entry.slot.position]) if is_needed else [None]
            ids = batch.ids if batch is not None else []
            if not self._waiting or self._waiting[0] is not entry:
                continue
            excess = max(self._lag + events - self.share.events, 1)
            if self._lag_bytes + size > self.share.bytes:
                excess = entry.count
            count = min(excess, entry.count)
            if self.tap is not None and batch is not None:
                gone = batch.select(range(entry.skip, entry.skip + count))
                self.tap.show(What.DROPPED, gone, reason="its share of the buffer was full, and this was the oldest")
            dropped += self._drop(entry, count, ids)
        self._dropped += dropped
        return dropped

    def count_dropped(self, events: int) -> None:
        """Count events that never came in because the share was full."""
        self._dropped += events

    def start(self) -> None:
        """Deliver from now on, until `close`."""
        self._tasks.keep_alive(_FEEDING, self._run)

    async def _run(self) -> None:
        while True:
            await self._link.wait_room()
            while self._is_half_taken():
                self._moved.clear()
                self._relieve()
                await self._moved.wait()
            while not await self._have_waiting():
                self._tasks.works(_FEEDING)
                self._changed.clear()
                await self._changed.wait()
            if self._should_gather():
                await self._gather()
                if not self._waiting:  # dropped meanwhile
                    continue
            await self._send(self._next_entries())
            self._tasks.works(_FEEDING)

    async def _send(self, taken: list[OutletEntry]) -> None:
        """Push a batch that has been taken from what waits; it waits again where that fails."""
        try:
            entries, batch = await self._assemble(taken)
            if self.tap is not None:
                self.tap.show(What.IN, batch)
            answer = self._link.push_nowait(batch) if entries else None
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            self._passage.give_back(taken)
            self._in_flight -= sum(entry.count for entry in taken)
            self._in_flight_bytes -= sum(entry.size for entry in taken)
            raise
        if answer is not None:
            self._began = asyncio.get_running_loop().time()
            self._tasks.start("delivery", self._deliver(entries, batch, answer))

    async def drain(self) -> None:
        """Return when nothing waits and nothing is in flight."""
        while self._lag:
            self._moved.clear()
            self.flush()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._moved.wait()

    def flush(self) -> None:
        """Let the emitter complete what it collects, once it has everything that waits here."""
        if not self._waiting and not self._behind:
            self._link.flush_nowait(everything=True)

    def halt(self) -> None:
        """Hand nothing more to the emitter."""
        self._tasks.cancel(_FEEDING)

    async def hand_over(self, link: Link, release: Callable[[], None], *, grace: float) -> int:
        """Deliver over another link from now on, from where this is.

        What is in flight has `grace` seconds to get its answers; then `release` is called, which has the emitter say
        what is confirmed. What has no answer is delivered again, in its place: returns how many events those are.
        """
        old = self._link
        await self._tasks.end(_FEEDING)
        if self._relief is not None:
            self._relief.cancel()
            self._relief = None
        old.flush_nowait(everything=True)
        if not await self._tasks.wait(grace):
            release()
            await self._tasks.wait(_RELEASE_SECONDS)
        closing = self._tasks.start("close", old.close())
        await asyncio.wait([closing], timeout=_RELEASE_SECONDS)  # code that is cancelled may take its time
        again, self._unknown = sorted(self._unknown, key=lambda entry: entry.slot.position), []
        self._waiting.extendleft(reversed(again))
        self._passage.give_back(again)
        self._in_flight -= (count := sum(entry.count for entry in again))
        self._in_flight_bytes -= sum(entry.size for entry in again)
        self._link, self._fault = link, ""
        link.on_taken, link.on_fault = self._relieve, self._note_fault
        self.start()
        return count

    def allow(self, share: Quota) -> None:
        """Take another share of the buffer, and another rule; what waits beyond it stays."""
        self.share = share
        self._join_events = max(1, min(_JOIN.join_events, share.events // 4))
        self._moved.set()

    async def settled(self) -> None:
        """Return, after `halt`, when everything that is in flight to the emitter has its answer."""
        await self._tasks.wait()

    async def close(self) -> None:
        """Close the link to the emitter; what is not confirmed stays unconfirmed."""
        if self._relief is not None:
            self._relief.cancel()
        await self._tasks.close()
        await self._link.close()

    def held(self) -> Held:
        """Return what this outlet has to deliver."""
        return Held(self._passage.in_flight, list(self._waiting), self._loaded, self._behind)

    def statistics(self) -> OutletStatistics:
        """Return a snapshot of the counters; from any thread."""
        lag = self._lag
        return OutletStatistics(
            self._confirmed,
            self._dead,
            self._dropped,
            lag,
            self._lag_bytes,
            self._in_flight,
            self._unreadable,
            self._fault or self._tasks.fault,
            self._passage.bytes,
            self._passage.oldest_age(self._first_waiting()) if lag else 0.0,
            self._passage.idle if lag else 0.0,
            self._is_full(),
            self._passage.ages,
            self._passage.waits,
        )

    def _first_waiting(self) -> OutletEntry | None:
        try:
            return self._waiting[0]
        except IndexError:
            return None

    def _is_full(self) -> bool:
        if self.share.overflow is Overflow.DROP_OLDEST:
            return False
        return self._pressed > 0 or self._lag >= self.share.events or self._lag_bytes >= self.share.bytes

    def _relieve(self) -> None:
        """Let a collecting emitter complete some of what it holds, where that is too much of the share, or all of it.

        Half of the share is enough for it: of the rest more can wait, or be dropped. Answers that are on their way have
        a moment to make room without that.
        """
        if self._relief is None and self._needs_relief():
            later = asyncio.get_running_loop().call_later
            self._relief = later(_RELIEF_SECONDS, self._flush_if_stuck, self._confirmed + self._dead)

    def _flush_if_stuck(self, done: int) -> None:
        self._relief = None
        if done != self._confirmed + self._dead:
            self._relieve()
        elif self._needs_relief():
            self._link.flush_nowait()

    def _needs_relief(self) -> bool:
        if not self._link.is_holding:
            return False
        return self._is_half_taken() or bool(self._pressed and not self._waiting and not self._behind)

    def _is_half_taken(self) -> bool:
        if not self._link.is_holding:
            return False
        return self._in_flight * 2 > self.share.events or self._in_flight_bytes * 2 > self.share.bytes

    def _append(self, slot: Slot, since_ns: int) -> None:
        self._log.claim(self.name, slot.position)
        self._waiting.append(OutletEntry(slot, since_ns))
        self._loaded = slot.position
        if self._gathering is not None and not self._are_few():
            self._go_on()

    def _are_few(self) -> bool:
        """Return whether less waits than is worth a delivery of its own so soon after another."""
        return self._lag - self._in_flight - self._reserved < min(_FEW, self._join_events)

    def _should_gather(self) -> bool:
        """Return whether what waits should wait for more; with senders that wait, only while others are in flight."""
        if not self._are_few() or (self._pending and not self._in_flight):
            return False
        return asyncio.get_running_loop().time() < self._began + _PAUSE_SECONDS

    async def _gather(self) -> None:
        """Wait until no longer few events wait, or the time has come for a few."""
        loop = asyncio.get_running_loop()
        self._gathering = loop.create_future()
        timer = loop.call_at(self._began + _PAUSE_SECONDS, self._go_on)
        await self._gathering
        timer.cancel()

    def _go_on(self) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is not None and not gathering.done():
            gathering.set_result(None)

    async def _have_waiting(self) -> bool:
        """Return whether something waits, after asking the log where this outlet is behind."""
        if self._waiting or not self._behind:
            return bool(self._waiting)
        async with self._loading:
            while self._behind and not self._waiting:
                await self._load()
        return bool(self._waiting)

    async def _load(self) -> None:
        arrived, limit = self._arrived, self._log.window
        try:
            slots = await self._log.next_slots(self.name, self._loaded, limit)
        except JournalError as error:
            _REPEATED.error((self.name, "load"), "emitter %r: %s", self.name, error)
            await asyncio.sleep(1.0)
            return
        for slot in slots:
            self._append(slot, slot.enqueued_ns)
        if len(slots) < limit and arrived == self._arrived:
            self._behind = False
            self._count_missing()

    def _count_missing(self) -> None:
        """Count what this outlet was to deliver and the log no longer has; nothing else waits anywhere now."""
        events = self._lag - self._in_flight - self._reserved - sum(entry.count for entry in self._waiting)
        size = self._lag_bytes - self._in_flight_bytes - self._reserved_bytes
        size -= sum(entry.size for entry in self._waiting)
        if events > 0:
            text = "emitter %r: %d events are no longer in the journal"
            _REPEATED.error((self.name, "gone"), text, self.name, events)
            self._unreadable += events
        if events > 0 or size > 0:
            self._account(-max(events, 0), -max(size, 0))

    def _drop(self, entry: OutletEntry, count: int, ids: list[str]) -> int:
        """Drop the first events of the entry that waits longest; `ids` where their sender waits for the delivery."""
        pending = self._pending.get(entry.slot.position)
        if pending is not None:
            reason = f"emitter {self.name!r} lags by its whole share of the buffer; dropped, as it was the oldest"
            dropped = [(ids[at] if at < len(ids) else "", at) for at in range(entry.skip, entry.skip + count)]
            pending.refuse(Refusal(event_id, Code.UNDELIVERED, reason, position=at) for event_id, at in dropped)
            if pending.start >= 0:
                pending.dropped.extend(pending.start + at for _, at in dropped)
        before = entry.size
        self._passage.move()
        entry.skip += count
        self._account(-count, entry.size - before)
        if entry.count == 0:
            self._waiting.popleft()
            self._release(self.name, entry.slot.position)
        return count

    def _next_entries(self) -> list[OutletEntry]:
        entries = [self._waiting.popleft()]
        events, size = entries[0].count, entries[0].size
        while self._waiting:
            events += self._waiting[0].count
            size += self._waiting[0].size
            if events > self._join_events or size > _JOIN.join_bytes:
                break
            entries.append(self._waiting.popleft())
        self._in_flight += sum(entry.count for entry in entries)
        self._in_flight_bytes += sum(entry.size for entry in entries)
        self._passage.take(entries)
        return entries

    async def _assemble(self, entries: list[OutletEntry]) -> tuple[list[OutletEntry], Batch]:
        """Fetch the batches of the entries and join them; those that cannot be read are counted and passed."""
        batches = []
        good = []
        unreadable = []
        for entry, batch in zip(entries, await self._fetch([entry.slot.position for entry in entries]), strict=True):
            if batch is None:
                _REPEATED.error(
                    (self.name, "lost"), "emitter %r: %d events are lost: they cannot be read", self.name, entry.count
                )
                unreadable.append(entry)
                continue
            batches.append(batch.split(entry.skip)[1] if entry.skip else batch)
            good.append(entry)
        joined = join(batches).unidentified() if batches else Batch.from_events([])
        for entry in unreadable:
            self._unreadable += entry.count
            self._pass(entry)
        return good, joined

    async def _fetch(self, positions: list[int]) -> list[Batch | None]:
        while True:
            try:
                return await self._log.fetch(positions)
            except JournalError as error:  # they are there, and can be read another time
                _REPEATED.error((self.name, "fetch"), "emitter %r: %s", self.name, error)
                await asyncio.sleep(1.0)

    async def _deliver(self, entries: list[OutletEntry], batch: Batch, answer: asyncio.Future[Receipt]) -> None:
        receipt = await self._wait_for_receipt(batch, answer)
        if receipt is None:
            self._unknown += entries
            return
        placed = list(zip(accumulate((entry.count for entry in entries), initial=0), entries, strict=False))
        if receipt.refused:
            placed, receipt = _decided(placed, receipt)
            decided = {entry.slot.position for _, entry in placed}
            self._unknown += [entry for entry in entries if entry.slot.position not in decided]
        if receipt.refused:
            await self._keep_refused(batch, receipt.refused)
        if self.tap is not None:
            _show(self.tap, batch, [(start, entry.count) for start, entry in placed], receipt.refused)
        self._passage.confirm([entry for _, entry in placed])
        self.delivered.note(batch.sealed(), [refusal.position for refusal in receipt.refused])
        for start, entry in placed:
            pending = self._pending.get(entry.slot.position)
            if receipt.refused and pending is not None:
                refused = receipt.part(start, entry.count).refused
                pending.refuse([refusal._replace(letter=True) for refusal in refused], entry.skip)
            self._confirmed += entry.count
            self._pass(entry)
        self._dead += len(receipt.refused)
        self._confirmed -= len(receipt.refused)

    async def _keep_refused(self, batch: Batch, refused: tuple[Refusal, ...]) -> None:
        """Return when the dead letters of refused events are kept: until then this outlet does not move past them."""
        while True:
            try:
                stored = self._bury(self.name, batch, refused)
                if stored is not None:
                    await stored
            except BaseException as error:
                if is_ours(error):
                    raise
                self._tasks.note("dead letters", error)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self._tasks.works("dead letters")
                return

    async def _wait_for_receipt(self, batch: Batch, answer: asyncio.Future[Receipt]) -> Receipt | None:
        """Return what became of a batch: only the emitter can tell; None where the link was closed before it did."""
        while True:
            try:
                receipt = await answer
            except DrainingError:
                return None
            except BaseException as error:  # not even the link could try again: behind what it has, but nothing is lost
                if is_ours(error):
                    raise
                self._note_fault(as_exception(error))
                await asyncio.sleep(_AGAIN_SECONDS)
                answer = self._link.push_nowait(batch)
            else:
                self._fault = ""
                return receipt

    def _note_fault(self, error: Exception) -> None:
        """Have health show what a push ended with: it is no verdict about an event, so the events are held."""
        self._fault = named(error)
        _REPEATED.warning(
            (self.name, "push"), "emitter %r cannot be reached, its events are held: %s", self.name, self._fault
        )

    def _pass(self, entry: OutletEntry) -> None:
        self._passage.leave(entry)
        self._account(-entry.count, -entry.size)
        self._in_flight -= entry.count
        self._in_flight_bytes -= entry.size
        if self._gathering is not None and not self._should_gather():
            self._go_on()
        self._release(self.name, entry.slot.position)

    def _reserve(self, events: int, size: int) -> None:
        self._reserved += events
        self._reserved_bytes += size

    def _account(self, events: int, size: int) -> None:
        self._lag += events
        self._lag_bytes += size
        self._moved.set()


def _show(tap: TapPoint, batch: Batch, placed: list[tuple[int, int]], refused: tuple[Refusal, ...]) -> None:
    """Show what became of a batch that was delivered; `placed` are starts and counts of what is decided."""
    dead = {refusal.position for refusal in refused}
    if dead:
        notes = [Note(refusal.position, refusal.code, refusal.message) for refusal in refused]
        tap.show(What.DEAD, batch, notes=notes)
    decided = sum(count for _, count in placed)
    if not dead and decided == len(batch):
        tap.show(What.OUT, batch)
        return
    there = [at for start, count in placed for at in range(start, start + count) if at not in dead]
    if there:
        tap.show(What.OUT, batch.select(there))


def _decided(placed: list[tuple[int, OutletEntry]], receipt: Receipt) -> tuple[list[tuple[int, OutletEntry]], Receipt]:
    """Leave out the entries, each given with its start in the batch, of which an event has no outcome yet.

    So answers an emitter that had to return before the end. What it knows of such a entry will be found out again.
    """
    unknown = [refusal.position for refusal in receipt.refused if refusal.code is Code.UNAVAILABLE]
    if not unknown:
        return placed, receipt
    known = [(start, entry) for start, entry in placed if not any(0 <= at - start < entry.count for at in unknown)]
    refused = [r for r in receipt.refused if any(0 <= r.position - start < entry.count for start, entry in known)]
    return known, receipt._replace(refused=tuple(refused))
