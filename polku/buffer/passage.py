"""How long events are on their way through one outlet, and whether anything moves there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from polku.buffer.positions import Claim
from polku.histogram import Distribution, Histogram


class Passage:
    """Note, once a batch, what is in flight and what has left; the questions may come from any thread."""

    def __init__(self) -> None:
        self.bytes = 0  # of what has left
        self._ages = Histogram()
        self._moved_at = 0.0  # monotonic
        self._in_flight: dict[int, Claim] = {}  # by position
        self._recovered_ns = 0

    def begin(self, since_ns: int = 0) -> None:
        """Note that something waits where nothing did; what an earlier life had taken in came at `since_ns`."""
        self._moved_at = time.monotonic()
        self._recovered_ns = since_ns

    def take(self, claims: Sequence[Claim]) -> None:
        """Note that these are handed to the emitter."""
        for claim in claims:
            self._in_flight[claim.slot.position] = claim

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Note that these wait again."""
        for claim in claims:
            self._in_flight.pop(claim.slot.position, None)

    def leave(self, claim: Claim) -> None:
        """Note that one has left, whatever became of it."""
        self._moved_at = time.monotonic()
        self._in_flight.pop(claim.slot.position, None)

    def move(self) -> None:
        """Note that something has left without having been handed to the emitter."""
        self._moved_at = time.monotonic()

    def confirm(self, claims: Sequence[Claim]) -> None:
        """Count the ages of events that have their answer."""
        now = time.time_ns()
        for claim in claims:
            self.bytes += claim.size
            if claim.slot.enqueued_ns:
                self._ages.record((now - claim.slot.enqueued_ns) / 1e9, claim.count)

    def oldest_age(self, waiting: Claim | None) -> float:
        """Return the age in seconds of the first event that waits (`waiting`) or is in flight; 0.0 where unknown."""
        claims = [*self._in_flight.copy().values(), *([] if waiting is None else [waiting])]
        came = min((claim.slot.enqueued_ns for claim in claims if claim.slot.enqueued_ns), default=self._recovered_ns)
        return max(time.time_ns() - came, 0) / 1e9 if came else 0.0

    @property
    def idle(self) -> float:
        """For how many seconds nothing has moved, where something waits."""
        return time.monotonic() - self._moved_at

    @property
    def ages(self) -> Distribution:
        """The ages in seconds, from the gateway on, of events that have their answer."""
        return self._ages.distribution()
