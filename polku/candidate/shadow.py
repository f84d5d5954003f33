"""Middleware in use with new middleware in its shadow, which costs it the copies of a share of its events."""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import compress
from typing import NamedTuple

from polku.candidate.around import Around
from polku.candidate.comparison import made_of
from polku.candidate.configuration import WithCandidate, key_name
from polku.candidate.thread import ShadowThread
from polku.contracts import CallShape, Outcome, Overlapping, Step
from polku.event.v1.event_pb2 import Event
from polku.hooks import CLOSE_SECONDS, call_hook, close_each
from polku.stage.statistics import CandidateCounts


class _Sample(NamedTuple):
    """The events of a batch that the shadow gets: their positions, and what they were."""

    positions: list[int]
    given: list[bytes]


class Shadow(Around):
    """Do what the middleware in use does, and have its shadow work on a share of the events, in a thread of its own."""

    def __init__(self, config: WithCandidate, current: Step, thread: ShadowThread) -> None:
        super().__init__(config, current)
        self._thread = thread

    async def start(self) -> None:
        """Start the one in use; its shadow starts meanwhile, and nobody waits for it."""
        self._thread.start()
        await call_hook(self._current, "start")

    async def close(self) -> None:
        """Close both."""
        await close_each(
            [
                (f"the shadow of {self.name}", self._thread.close),
                (f"middleware {self.name}", lambda: call_hook(self._current, "close", seconds=CLOSE_SECONDS)),
            ]
        )

    def process(self, events: list[Event], batch: int) -> Outcome | Awaitable[Outcome]:
        """Return what the one in use makes of the events."""
        sample = self._sample(events)
        result: Outcome | Awaitable[Outcome] = self._current.process(events, batch)
        if sample is None:
            return result
        if isinstance(result, Outcome):
            return self._shown(events, sample, result)
        return self._awaited(events, sample, result)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        """Tell the one in use what became of a batch."""
        self._current.settled(batch, refused)

    def candidate_counts(self) -> CandidateCounts:
        """Return how the two compare; from any thread."""
        config = self._config
        found = self._thread.found()
        return CandidateCounts(str(config.mode), self.name, config.name, config.share, key_name(config.key), *found)

    def _sample(self, events: list[Event]) -> _Sample | None:
        """Return copies of the share of the events, where there is one and the shadow has time for it."""
        chosen = bytes(map(self._choose, events))
        count = sum(chosen)
        if not count or not self._thread.has_room(count):
            return None
        positions = list(compress(range(len(events)), chosen))
        return _Sample(positions, [events[position].SerializeToString() for position in positions])

    def _shown(self, events: list[Event], sample: _Sample, outcome: Outcome) -> Outcome:
        """Show the shadow what it is compared with."""
        self._thread.offer(sample.given, made_of(events, outcome, sample.positions))
        return outcome

    async def _awaited(self, events: list[Event], sample: _Sample, result: Awaitable[Outcome]) -> Outcome:
        return self._shown(events, sample, await result)


class OverlappingShadow(Shadow):
    """The same where the middleware in use works on several batches at once."""

    _current: Overlapping

    def submit(self, events: list[Event]) -> Awaitable[Outcome]:
        """Take the events of a batch, and return what is awaited for their outcome."""
        sample = self._sample(events)
        result = self._current.submit(events)
        return result if sample is None else self._awaited(events, sample, result)

    def flush(self) -> None:
        """Wait for no more events."""
        self._current.flush()

    @property
    def limit(self) -> tuple[int, int]:
        """The numbers of events and bytes without an outcome that the one in use takes."""
        return self._current.limit

    def shape(self) -> CallShape:
        """Return what the calls of the one in use are like."""
        return self._current.shape()
