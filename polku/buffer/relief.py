"""When an emitter that collects events has to complete some of what it holds, so that there is room for more."""

from __future__ import annotations

import asyncio

from polku.buffer.cursor import OutletCursor
from polku.buffer.quota import QuotaUsage
from polku.buffer.statistics import OutletCounts
from polku.link.link import Link

_RELIEF_SECONDS = 0.02


class Relief:
    """Let a collecting emitter complete some of what it holds, where that is too much of the quota, or all of it.

    Half of the quota is enough for it: of the rest more can wait, or be dropped. Answers that are on their way have a
    moment to make room without that.
    """

    def __init__(self, usage: QuotaUsage, cursor: OutletCursor, counts: OutletCounts, link: Link) -> None:
        self._usage = usage
        self._cursor = cursor
        self._counts = counts
        self._timer: asyncio.TimerHandle | None = None
        self.watch(link)

    def watch(self, link: Link) -> None:
        """Look after the emitter at the end of this link from now on."""
        self._link = link
        link.notify(taken=self.look)

    def look(self) -> None:
        """Ask the emitter a moment later to complete something, where that is needed then too."""
        if self._timer is None and self._is_needed():
            later = asyncio.get_running_loop().call_later
            self._timer = later(_RELIEF_SECONDS, self._flush_if_stuck, self._counts.confirmed + self._counts.dead)

    def cancel(self) -> None:
        """Ask the emitter for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_half_taken(self) -> bool:
        """Whether the emitter holds more than half of the quota."""
        return self._link.is_holding and self._usage.is_half_in_flight

    def _flush_if_stuck(self, done: int) -> None:
        self._timer = None
        if done != self._counts.confirmed + self._counts.dead:
            self.look()
        elif self._is_needed():
            self._link.flush_nowait()

    def _is_needed(self) -> bool:
        if not self._link.is_holding:
            return False
        return self._usage.is_half_in_flight or bool(self._usage.pressed and self._cursor.is_at_end)
