"""What one outlet may hold of the buffer, and what it holds."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from polku.buffer.positions import LogSlot, OutletEntry
from polku.buffer.strategy import Overflow
from polku.link.link import Window

_JOIN = Window()


class Quota(Struct, frozen=True):
    """What one outlet may hold: events, bytes, and the rule for what does not fit."""

    events: int
    bytes: int
    overflow: Overflow


class QuotaUsage:
    """Account for what one outlet holds of its quota.

    `lag` events of `lag_bytes` have not been passed. Of those `reserved` are on their way into the log, `in_flight` are
    handed to the emitter, and the rest waits. `moved` is set whenever any of that changes.
    """

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.join_events = _joined(quota)
        self.lag = self.lag_bytes = 0
        self.in_flight = self.in_flight_bytes = 0
        self.reserved = self.reserved_bytes = 0
        self.pressed = 0  # those who wait for room
        self.moved = asyncio.Event()

    def allow(self, quota: Quota) -> None:
        """Take another quota; what is beyond it stays."""
        self.quota = quota
        self.join_events = _joined(quota)
        self.moved.set()

    def fits(self, events: int, size: int) -> bool:
        """Return whether that much more is within the quota. An empty outlet takes anything."""
        if self.lag == 0:
            return True
        return self.lag + events <= self.quota.events and self.lag_bytes + size <= self.quota.bytes

    @property
    def piece(self) -> int:
        """The number of events that one entry may have."""
        return self.join_events if self.quota.overflow is Overflow.DROP_OLDEST else self.quota.events

    @property
    def room(self) -> int:
        """The number of events that still fit into the quota."""
        return max(0, self.quota.events - self.lag) if self.lag_bytes < self.quota.bytes else 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for what comes, and the rule makes none."""
        if self.quota.overflow is Overflow.DROP_OLDEST:
            return False
        return self.pressed > 0 or self.lag >= self.quota.events or self.lag_bytes >= self.quota.bytes

    @property
    def is_half_in_flight(self) -> bool:
        """Whether more than half of the quota is in flight."""
        return self.in_flight * 2 > self.quota.events or self.in_flight_bytes * 2 > self.quota.bytes

    def account(self, events: int, size: int) -> None:
        """Count that much more, or less where it is negative."""
        self.lag += events
        self.lag_bytes += size
        self.moved.set()

    def reserve(self, slot: LogSlot) -> None:
        """Set aside room for a batch that is on its way into the log."""
        self.reserved += slot.events
        self.reserved_bytes += slot.size
        self.lag += slot.events
        self.lag_bytes += slot.size
        self.moved.set()

    def cancel(self, slot: LogSlot) -> None:
        """Give back what was set aside for a batch that never got into the log."""
        self.claim(slot)
        self.account(-slot.events, -slot.size)

    def claim(self, slot: LogSlot) -> None:
        """Count a batch whose room was set aside as one that waits."""
        self.reserved -= slot.events
        self.reserved_bytes -= slot.size

    def leave(self, entry: OutletEntry) -> None:
        """Count what was in flight as passed."""
        events, size = entry.count, entry.size
        self.lag -= events
        self.lag_bytes -= size
        self.in_flight -= events
        self.in_flight_bytes -= size
        self.moved.set()


def _joined(quota: Quota) -> int:
    """Return how many events may leave as one batch: with two in flight, half of the quota can always be dropped."""
    return max(1, min(_JOIN.join_events, quota.events // 4))
