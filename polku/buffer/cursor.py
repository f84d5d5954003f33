"""Where one outlet is in the log: the places of the next batches at hand, and those that it has to ask for.

```text
            claim: there is space at hand                    next_entries
 log ──────────────────────────────────────────► waiting ─────────────────► in flight
   │                                                ▲
   │ claim: too many are at hand                    │ the log is asked when nothing waits
   └──────────────────────► behind ─────────────────┘
```
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from polku.batch.batch import Batch
from polku.buffer.log import Log
from polku.buffer.positions import LogSlot, OutletEntry, OutletState
from polku.buffer.quota import QuotaUsage
from polku.buffer.spacing import DeliverySpacing
from polku.buffer.statistics import OutletCounts
from polku.errors import JournalError
from polku.link.link import Window
from polku.log import RepeatedLog

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_JOIN = Window()


class OutletCursor:
    """Keep what one outlet has to deliver next, in order; `name` is the outlet's.

    `waiting` is at hand. Where the outlet `is_behind`, the log has more, after the position `loaded`. `changed` is set
    when something was claimed. `note_missing` is called where the log has lost something.
    """

    def __init__(
        self,
        name: str,
        log: Log,
        usage: QuotaUsage,
        spacing: DeliverySpacing,
        counts: OutletCounts,
        note_missing: Callable[[], None],
    ) -> None:
        self.name = name
        self._log = log
        self._usage = usage
        self._spacing = spacing
        self._counts = counts
        self._note_missing = note_missing
        self.waiting: deque[OutletEntry] = deque()
        self.is_behind = False
        self.loaded = 0
        self.changed = asyncio.Event()
        self._arrived = 0
        self._loading = asyncio.Lock()

    def claim(self, slot: LogSlot) -> None:
        """Add a batch of the log to what must be delivered."""
        self._arrived += 1
        if self.is_behind or len(self.waiting) >= self._log.window:
            self.is_behind = True
        else:
            self._append(slot, time.time_ns())
        self.changed.set()

    def recover(self, state: OutletState) -> None:
        """Continue where the outlet was when the log was closed."""
        self.loaded = state.cursor
        self.is_behind = state.batches > 0
        self.changed.set()

    @property
    def first(self) -> OutletEntry | None:
        """What waits longest of what is at hand; from any thread."""
        try:
            return self.waiting[0]
        except IndexError:
            return None

    @property
    def is_at_end(self) -> bool:
        """Whether nothing waits, here or in the log."""
        return not self.waiting and not self.is_behind

    async def have_waiting(self) -> bool:
        """Return whether something waits, after asking the log where the outlet is behind."""
        if self.waiting or not self.is_behind:
            return bool(self.waiting)
        async with self._loading:
            while self.is_behind and not self.waiting:
                await self._load()
        return bool(self.waiting)

    def next_entries(self) -> tuple[list[OutletEntry], int, int]:
        """Take what may leave as one batch from what waits; return it with its events and bytes."""
        waiting = self.waiting
        entries = [waiting.popleft()]
        events, size = entries[0].count, entries[0].size
        while waiting:
            more, larger = events + waiting[0].count, size + waiting[0].size
            if more > self._usage.join_events or larger > _JOIN.join_bytes:
                break
            entries.append(waiting.popleft())
            events, size = more, larger
        return entries, events, size

    def give_back(self, entries: Sequence[OutletEntry]) -> None:
        """Have entries that were taken wait again, before everything else."""
        self.waiting.extendleft(reversed(entries))

    async def fetch(self, positions: list[int]) -> list[Batch | None]:
        """Return the batches at these positions, None for one that is damaged."""
        while True:
            try:
                return await self._log.fetch(positions)
            except JournalError as error:  # they are there, and can be read another time
                _REPEATED.error((self.name, "fetch"), "emitter %r: %s", self.name, error)
                await asyncio.sleep(1.0)

    def note_unreadable(self, entry: OutletEntry) -> None:
        """Log the events of a batch that is damaged."""
        text = "emitter %r: %d events are lost: they cannot be read"
        _REPEATED.error((self.name, "lost"), text, self.name, entry.count)

    def _append(self, slot: LogSlot, since_ns: int) -> None:
        self._log.claim(self.name, slot.position)
        self.waiting.append(OutletEntry(slot, since_ns))
        self.loaded = slot.position
        if self._spacing.gathering is not None and not self._spacing.are_few():
            self._spacing.deliver()

    async def _load(self) -> None:
        arrived, limit = self._arrived, self._log.window
        try:
            slots = await self._log.next_slots(self.name, self.loaded, limit)
        except JournalError as error:
            _REPEATED.error((self.name, "load"), "emitter %r: %s", self.name, error)
            await asyncio.sleep(1.0)
            return
        for slot in slots:
            self._append(slot, slot.enqueued_ns)
        if len(slots) < limit and arrived == self._arrived:
            self.is_behind = False
            self._count_missing()

    def _count_missing(self) -> None:
        """Count what the outlet was to deliver and the log no longer has; nothing else waits anywhere now."""
        usage = self._usage
        events = usage.lag - usage.in_flight - usage.reserved - sum(entry.count for entry in self.waiting)
        size = usage.lag_bytes - usage.in_flight_bytes - usage.reserved_bytes
        size -= sum(entry.size for entry in self.waiting)
        if events > 0:
            text = "emitter %r: %d events are no longer in the journal"
            _REPEATED.error((self.name, "gone"), text, self.name, events)
            self._counts.unreadable += events
            self._note_missing()
        if events > 0 or size > 0:
            usage.account(-max(events, 0), -max(size, 0))
