"""The buffer's side of one emitter: what it has not confirmed yet, in order, and its share of the buffer.

Only an outlet moves past events, and only when they are confirmed, dead letters, or dropped by rule.

```text
            claim                    send                     receipt
 log ─────────────────► waiting ──────────────► in flight ──────────────► refused? ── keep dead letters ──► passed
  (`cursor`: at hand,      │      (`spacing`:       │ (`delivery`)
   or asked for again)     │       a few wait       │
                           │       for more)        ├─ no answer: pushed again, in its place
                           │                        └─ too much is held: `relief` has the emitter complete some
                           ▼ drop_oldest
                        dropped
```

How much that may be is the `quota`; everything before "passed" counts as lag.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from polku.aio.sequencer import Sequencer
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, join
from polku.batch.receipt import Receipt, Refusal
from polku.buffer.copies import Held, RecentDeliveries
from polku.buffer.cursor import OutletCursor
from polku.buffer.delivery import Bury, OutletDelivery, decided, show
from polku.buffer.log import Log
from polku.buffer.passage import Passage
from polku.buffer.positions import LogSlot, OutletEntry, OutletState, PendingDelivery
from polku.buffer.quota import Quota, QuotaUsage
from polku.buffer.relief import Relief
from polku.buffer.spacing import DeliverySpacing
from polku.buffer.statistics import OutletCounts, OutletStatistics
from polku.codes import Code
from polku.link.link import Link
from polku.tap.point import TapPoint
from polku.tap.request import What

_FLUSH_SECONDS = 0.05
_FEEDING = "feeding"
_RELEASE_SECONDS = 1.0  # for an emitter to say what is confirmed, and to end


class ReleasePosition(Protocol):
    """Tell the buffer that an outlet is done with the batch at a position; `is_gone`: the log has it no more."""

    def __call__(self, outlet: str, position: int, *, is_gone: bool = False) -> None:
        """Answer the sender that waits for it, where this is the last outlet."""
        ...


class Outlet:
    """Feed one emitter from the log, at its own pace; `pending` are the batches whose senders wait, by position.

    `usage` is what it holds of its quota; those whose events are put in when it has room stand in `queue`.
    """

    def __init__(
        self,
        name: str,
        link: Link,
        quota: Quota,
        log: Log,
        pending: Mapping[int, PendingDelivery],
        *,
        bury: Bury,
        release: ReleasePosition,
    ) -> None:
        self.name = name
        self.tap: TapPoint | None = None
        self.steps = ()
        self.usage = QuotaUsage(quota)
        self.queue = Sequencer()
        self.delivered = RecentDeliveries()
        self._pending = pending
        self._release = release
        self._counts = OutletCounts()
        self._passage = Passage()
        self._tasks = TaskSet(f"outlet {name!r}")
        self._spacing = DeliverySpacing(self.usage, pending)
        self._cursor = OutletCursor(name, log, self.usage, self._spacing, self._counts, self._note_missing)
        self._delivery = OutletDelivery(name, link, bury, self._tasks)
        self._relief = Relief(self.usage, self._cursor, self._counts, link)
        self._unknown: list[OutletEntry] = []  # that are in flight, of which the link has told nothing

    def rename(self, name: str) -> None:
        """Have another name from now on, as the emitter has."""
        self.name = self._cursor.name = self._delivery.name = name

    async def wait_for_room(self, events: int, size: int) -> None:
        """Return when that much more fits."""
        usage = self.usage
        usage.pressed += 1
        try:
            while not usage.fits(events, size):
                usage.moved.clear()
                self._relief.look()
                await usage.moved.wait()
        finally:
            usage.pressed -= 1

    def reserve(self, slot: LogSlot) -> None:
        """Set aside room for a batch that is on its way into the log."""
        if not self.usage.lag:
            self._passage.begin()
        self.usage.reserve(slot)

    def claim(self, slot: LogSlot) -> None:
        """Add a batch of the log to what this outlet must deliver; its room is set aside."""
        self.usage.claim(slot)
        self._cursor.claim(slot)

    def recover(self, state: OutletState) -> None:
        """Continue where this outlet was when the log was closed."""
        self._passage.begin(state.oldest_ns)
        self.usage.account(state.events, state.bytes)
        self._cursor.recover(state)

    async def drop_oldest(self, events: int, size: int) -> int:
        """Drop waiting events, oldest first, until that much more fits; return how many were dropped.

        What is in flight to the emitter is not dropped.
        """
        dropped = 0
        usage, waiting = self.usage, self._cursor.waiting
        while not usage.fits(events, size) and await self._cursor.have_waiting():
            entry = waiting[0]
            is_needed = entry.slot.position in self._pending or self.tap is not None
            (batch,) = await self._cursor.fetch([entry.slot.position]) if is_needed else [None]
            ids = batch.ids if batch is not None else []
            if not waiting or waiting[0] is not entry:
                continue
            excess = max(usage.lag + events - usage.quota.events, 1)
            if usage.lag_bytes + size > usage.quota.bytes:
                excess = entry.count
            count = min(excess, entry.count)
            if self.tap is not None and batch is not None:
                gone = batch.select(range(entry.skip, entry.skip + count))
                self.tap.show(What.DROPPED, gone, reason="its share of the buffer was full, and this was the oldest")
            dropped += self._drop(entry, count, ids)
        self._counts.dropped += dropped
        return dropped

    def count_dropped(self, events: int) -> None:
        """Count events that never came in because the share was full."""
        self._counts.dropped += events

    def start(self) -> None:
        """Deliver from now on, until `close`."""
        self._tasks.keep_alive(_FEEDING, self._run)

    async def _run(self) -> None:
        while True:
            await self._delivery.link.wait_room()
            while self._relief.is_half_taken:
                self.usage.moved.clear()
                self._relief.look()
                await self.usage.moved.wait()
            while not await self._cursor.have_waiting():
                self._tasks.works(_FEEDING)
                self._cursor.changed.clear()
                await self._cursor.changed.wait()
            if self._spacing.should_gather():
                await self._spacing.gather()
                if not self._cursor.waiting:  # dropped meanwhile
                    continue
            await self._send()
            self._tasks.works(_FEEDING)

    async def _send(self) -> None:
        """Push a batch of what waits; it waits again where that fails."""
        taken, events, size = self._cursor.next_entries()
        self.usage.in_flight += events
        self.usage.in_flight_bytes += size
        self._passage.take(taken)
        try:
            entries, batch = await self._assemble(taken)
            if self.tap is not None:
                self.tap.show(What.IN, batch)
            answer = self._delivery.link.push_nowait(batch) if entries else None
        except BaseException:
            self._give_back(taken)
            raise
        if answer is not None:
            self._spacing.began()
            self._tasks.start("delivery", self._deliver(entries, batch, answer))

    def _give_back(self, entries: Sequence[OutletEntry]) -> int:
        """Have entries that are in flight wait again, in their places; return the number of their events."""
        self._cursor.give_back(entries)
        self._passage.give_back(entries)
        self.usage.in_flight -= (count := sum(entry.count for entry in entries))
        self.usage.in_flight_bytes -= sum(entry.size for entry in entries)
        return count

    async def drain(self) -> None:
        """Return when nothing waits and nothing is in flight."""
        while self.usage.lag:
            self.usage.moved.clear()
            self.flush()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self.usage.moved.wait()

    def flush(self) -> None:
        """Let the emitter complete what it collects, once it has everything that waits here."""
        if self._cursor.is_at_end:
            self._delivery.link.flush_nowait(everything=True)

    def halt(self) -> None:
        """Hand nothing more to the emitter."""
        self._tasks.cancel(_FEEDING)

    async def hand_over(self, link: Link, release: Callable[[], None], *, grace: float) -> int:
        """Deliver over another link from now on, from where this is.

        What is in flight has `grace` seconds to get its answers; then `release` is called, which has the emitter say
        what is confirmed. What has no answer is delivered again, in its place: returns how many events those are.
        """
        old = self._delivery.link
        await self._tasks.end(_FEEDING)
        self._relief.cancel()
        old.flush_nowait(everything=True)
        if not await self._tasks.wait(grace):
            release()
            await self._tasks.wait(_RELEASE_SECONDS)
        closing = self._tasks.start("close", old.close())
        await asyncio.wait([closing], timeout=_RELEASE_SECONDS)  # code that is cancelled may take its time
        again, self._unknown = sorted(self._unknown, key=lambda entry: entry.slot.position), []
        count = self._give_back(again)
        self._delivery.use(link)
        self._relief.watch(link)
        self.start()
        return count

    async def settled(self) -> None:
        """Return, after `halt`, when everything that is in flight to the emitter has its answer."""
        await self._tasks.wait()

    async def close(self) -> None:
        """Close the link to the emitter; what is not confirmed stays unconfirmed."""
        self._relief.cancel()
        await self._tasks.close()
        await self._delivery.link.close()

    def held(self) -> Held:
        """Return what this outlet has to deliver."""
        cursor = self._cursor
        return Held(self._passage.in_flight, list(cursor.waiting), cursor.loaded, cursor.is_behind)

    def statistics(self) -> OutletStatistics:
        """Return a snapshot of the counters; from any thread."""
        usage, counts, passage = self.usage, self._counts, self._passage
        lag = usage.lag
        return OutletStatistics(
            counts.confirmed,
            counts.dead,
            counts.dropped,
            lag,
            usage.lag_bytes,
            usage.in_flight,
            counts.unreadable,
            self._delivery.fault or self._tasks.fault,
            passage.bytes,
            passage.oldest_age(self._cursor.first) if lag else 0.0,
            passage.idle if lag else 0.0,
            usage.is_full,
            passage.ages,
            passage.waits,
            usage.quota.overflow,
        )

    def _drop(self, entry: OutletEntry, count: int, ids: list[str]) -> int:
        """Drop the first events of the entry that waits longest; `ids` where their sender waits for the delivery."""
        pending = self._pending.get(entry.slot.position)
        if pending is not None:
            reason = f"emitter {self.name!r} has a full share of the buffer; the event was dropped as the oldest one"
            dropped = [(ids[at] if at < len(ids) else "", at) for at in range(entry.skip, entry.skip + count)]
            pending.refuse(Refusal(event_id, Code.UNDELIVERED, reason, position=at) for event_id, at in dropped)
            if pending.start >= 0:
                pending.dropped.extend(pending.start + at for _, at in dropped)
        before = entry.size
        self._passage.move()
        entry.skip += count
        self.usage.account(-count, entry.size - before)
        if entry.count == 0:
            self._cursor.waiting.popleft()
            self._release(self.name, entry.slot.position)
        return count

    async def _assemble(self, entries: list[OutletEntry]) -> tuple[list[OutletEntry], Batch]:
        """Fetch the batches of the entries and join them; those that cannot be read are counted and passed."""
        batches = []
        good = []
        unreadable = []
        for entry, batch in zip(
            entries, await self._cursor.fetch([entry.slot.position for entry in entries]), strict=True
        ):
            if batch is None:
                self._cursor.note_unreadable(entry)
                unreadable.append(entry)
                continue
            batches.append(batch.split(entry.skip)[1] if entry.skip else batch)
            good.append(entry)
        joined = join(batches).unidentified() if batches else Batch.from_events([])
        for entry in unreadable:
            self._counts.unreadable += entry.count
            pending = self._pending.get(entry.slot.position)
            if pending is not None:
                pending.lose(self.name, entry.skip)
            self._pass(entry)
        return good, joined

    def _note_missing(self) -> None:
        """Answer the senders that wait for what the log no longer has."""
        there = {entry.slot.position for entry in (*self._cursor.waiting, *self._passage.in_flight)}
        awaited = [at for at, pending in self._pending.items() if pending.is_held and self.name in pending.owners]
        for position in set(awaited) - there:
            self._release(self.name, position, is_gone=True)

    async def _deliver(self, entries: list[OutletEntry], batch: Batch, answer: asyncio.Future[Receipt]) -> None:
        receipt = await self._delivery.wait_for_receipt(batch, answer)
        if receipt is None:
            self._unknown += entries
            return
        placed = list(zip(accumulate((entry.count for entry in entries), initial=0), entries, strict=False))
        if receipt.refused:
            placed, receipt = decided(placed, receipt)
            known = {entry.slot.position for _, entry in placed}
            self._unknown += [entry for entry in entries if entry.slot.position not in known]
        if receipt.refused:
            await self._delivery.keep_refused(batch, receipt.refused)
        if self.tap is not None:
            show(self.tap, batch, [(start, entry.count) for start, entry in placed], receipt.refused)
        self._passage.confirm([entry for _, entry in placed])
        self.delivered.note(batch.sealed(), [refusal.position for refusal in receipt.refused])
        for start, entry in placed:
            pending = self._pending.get(entry.slot.position)
            if receipt.refused and pending is not None:
                refused = receipt.piece(start, entry.count).refused
                pending.refuse([refusal._replace(letter=True, detail="") for refusal in refused], entry.skip)
            self._counts.confirmed += entry.count
            self._pass(entry)
        self._counts.dead += len(receipt.refused)
        self._counts.confirmed -= len(receipt.refused)

    def _pass(self, entry: OutletEntry) -> None:
        self._passage.leave(entry)
        self.usage.leave(entry)
        if self._spacing.gathering is not None and not self._spacing.should_gather():
            self._spacing.deliver()
        self._release(self.name, entry.slot.position)
