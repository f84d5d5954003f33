"""Events that could not be delivered, kept with their reason: bounded in memory, counted for good."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple

from polku.batch import Batch
from polku.clock import Clock, SystemClock
from polku.contracts import DeadEvent
from polku.event.v1.event_pb2 import Event
from polku.log import RepeatedLog
from polku.receipt import Refusal, located

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)


class DeadLetter(NamedTuple):
    """One event that could not be delivered.

    `emitter` is empty where it never got to one; `time_ns` is Unix time in nanoseconds; `detail` is a traceback or
    what the destination said.
    """

    event: Event
    emitter: str
    code: str
    reason: str
    detail: str
    time_ns: int
    attempts: int = 1


class DeadLetterStatistics(NamedTuple):
    """Count dead letters by emitter and code; `forgotten` were pushed out by newer ones.

    `fault` says why letters cannot be stored now.
    """

    total: int
    kept: int
    forgotten: int
    by_reason: Mapping[tuple[str, str], int]
    fault: str = ""


class DeadLetters:
    """Keep the latest `limit` dead letters, and count them all."""

    def __init__(self, limit: int = 1_000, *, clock: Clock | None = None) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=limit)
        self._clock = clock or SystemClock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def bury(self, emitter: str, batch: Batch, refused: Sequence[Refusal]) -> Awaitable[None] | None:
        """Keep those events of a batch that are refused; None means that they are kept."""
        events = batch.events
        for refusal in located(refused, batch):
            event, now = events[refusal.position], self._clock.time_ns()
            self._keep(DeadLetter(event, emitter, refusal.code, refusal.message, "", now, refusal.attempts))
        return None

    def bury_events(self, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        """Keep events on which middleware failed; None means that they are kept."""
        for event, refusal, detail in dead:
            self._keep(DeadLetter(event, "", refusal.code, refusal.message, detail, self._clock.time_ns()))
        return None

    async def stored(self) -> list[DeadLetter]:
        """Return the dead letters that are kept, oldest first, wherever they are kept."""
        return self.latest()

    async def close(self) -> None:
        """Let go of files."""

    def latest(self) -> list[DeadLetter]:
        """Return the dead letters that are kept, oldest first."""
        return list(self._letters)

    def statistics(self) -> DeadLetterStatistics:
        """Return a snapshot of the counters."""
        total = sum(self._counts.values())
        return DeadLetterStatistics(total, len(self._letters), total - len(self._letters), dict(self._counts))

    def _keep(self, letter: DeadLetter) -> None:
        event = Event()
        event.CopyFrom(letter.event)  # the original would keep its whole batch in memory
        letter = letter._replace(event=event)
        self._counts[letter.emitter, letter.code] += 1
        self._letters.append(letter)
        where = f" for {letter.emitter}" if letter.emitter else ""
        kind = (letter.emitter, letter.code)
        _REPEATED.warning(kind, "dead letter%s: event %s: %s: %s", where, letter.event.id, letter.code, letter.reason)
        if letter.detail:
            _REPEATED.info((*kind, "detail"), "%s", letter.detail)
