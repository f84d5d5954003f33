"""How long events are on their way through one outlet, and whether anything moves there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from polku.buffer.positions import OutletEntry
from polku.histogram import Distribution, Histogram


class Passage:
    """Note, once a batch, what is in flight and what has left; the questions may come from any thread."""

    def __init__(self) -> None:
        self.bytes = 0  # of what has left
        self._ages, self._waits = Histogram(), Histogram()
        self._moved_at = 0.0  # monotonic
        self._in_flight: dict[int, OutletEntry] = {}  # by position
        self._recovered_ns = 0

    def begin(self, since_ns: int = 0) -> None:
        """Note that something waits where nothing did; what an earlier life had taken in came at `since_ns`."""
        self._moved_at = time.monotonic()
        self._recovered_ns = since_ns

    def take(self, entries: Sequence[OutletEntry]) -> None:
        """Note that these are handed to the emitter."""
        now = time.time_ns()
        for entry in entries:
            self._in_flight[entry.slot.position] = entry
            if entry.since_ns:
                self._waits.record((now - entry.since_ns) / 1e9, entry.count)

    def give_back(self, entries: Sequence[OutletEntry]) -> None:
        """Note that these wait again."""
        for entry in entries:
            self._in_flight.pop(entry.slot.position, None)

    def leave(self, entry: OutletEntry) -> None:
        """Note that one has left, whatever became of it."""
        self._moved_at = time.monotonic()
        self._in_flight.pop(entry.slot.position, None)

    def move(self) -> None:
        """Note that something has left without having been handed to the emitter."""
        self._moved_at = time.monotonic()

    def confirm(self, entries: Sequence[OutletEntry]) -> None:
        """Count the ages of events that have their answer."""
        now = time.time_ns()
        for entry in entries:
            self.bytes += entry.size
            if entry.slot.enqueued_ns:
                self._ages.record((now - entry.slot.enqueued_ns) / 1e9, entry.count)

    @property
    def in_flight(self) -> list[OutletEntry]:
        """What is handed to the emitter, and has no answer yet."""
        return list(self._in_flight.copy().values())

    def oldest_age(self, waiting: OutletEntry | None) -> float:
        """Return the age in seconds of the first event that waits (`waiting`) or is in flight; 0.0 where unknown."""
        entries = [*self._in_flight.copy().values(), *([] if waiting is None else [waiting])]
        came = min((entry.slot.enqueued_ns for entry in entries if entry.slot.enqueued_ns), default=self._recovered_ns)
        return max(time.time_ns() - came, 0) / 1e9 if came else 0.0

    @property
    def idle(self) -> float:
        """For how many seconds nothing has moved, where something waits."""
        return time.monotonic() - self._moved_at

    @property
    def waits(self) -> Distribution:
        """How long in seconds events have waited here until they were handed to the emitter."""
        return self._waits.distribution()

    @property
    def ages(self) -> Distribution:
        """The ages in seconds, from the gateway on, of events that have their answer."""
        return self._ages.distribution()
