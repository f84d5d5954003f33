"""Middleware in use with new middleware next to it, which gets a share of the events in its place."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, NamedTuple

from polku.batch.lineage import origins
from polku.candidate.around import Around
from polku.candidate.configuration import WithCandidate, key_name
from polku.contracts import CallShape, Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.hooks import CLOSE_SECONDS, call_hook, close_each
from polku.middleware.per_event import died, placed
from polku.stage.statistics import CandidateCounts, CandidateDifference
from polku.usercode import is_ours


class _Side(NamedTuple):
    """The events of a batch that one of the two gets, and their positions in it."""

    positions: list[int]
    events: list[Event]


class Canary(Around):
    """Give each of two steps its share of the events of a batch, and hand on what they made of them in order.

    A new step that raises as a whole costs its own share alone. `drop_reason` is that of the one in use.
    """

    def __init__(self, config: WithCandidate, current: Step, candidate: Step) -> None:
        super().__init__(config, current)
        self._candidate: Any = candidate
        self._open: dict[int, tuple[_Side, _Side]] = {}  # of batches without an outcome, by their numbers
        self._counts = dict.fromkeys(("old", "old_dropped", "old_refused", "new", "new_dropped", "new_refused"), 0)
        self.reads_only = self.reads_only and bool(getattr(candidate, "reads_only", False))

    async def start(self) -> None:
        """Start both."""
        await call_hook(self._current, "start")
        await call_hook(self._candidate, "start")

    async def close(self) -> None:
        """Close both."""
        await close_each(
            [
                (f"middleware {step.name}", partial(call_hook, step, "close", seconds=CLOSE_SECONDS))
                for step in (self._candidate, self._current)
            ]
        )

    def process(self, events: list[Event], batch: int) -> Outcome | Awaitable[Outcome]:
        """Return what the two made of the events."""
        old, new = self._divided(events)
        if not new.events:
            result = self._current.process(events, batch)
            return self._all_old(events, result) if isinstance(result, Outcome) else self._await_old(events, result)
        self._open[batch] = old, new
        results = self._call(self._current, old, batch), self._call(self._candidate, new, batch)
        if isinstance(results[0], Outcome) and isinstance(results[1], Outcome):
            return self._together(old, new, results[0], results[1])
        return self._await_both(old, new, results)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        """Tell each of the two what became of its share of a batch."""
        sides = self._open.pop(batch, None)
        if sides is None:
            self._current.settled(batch, refused)
            return
        for step, side in zip((self._current, self._candidate), sides, strict=True):
            if side.events:
                step.settled(batch, frozenset(at for at, place in enumerate(side.positions) if place in refused))

    def candidate_counts(self) -> CandidateCounts:
        """Return what went to either side, and what became of it; from any thread."""
        config = self._config
        latest: tuple[CandidateDifference, ...] = ()
        return CandidateCounts(
            str(config.mode), self.name, config.name, config.share, key_name(config.key), dict(self._counts), latest
        )

    def _divided(self, events: list[Event]) -> tuple[_Side, _Side]:
        sides = _Side([], []), _Side([], [])
        for position, event in enumerate(events):
            side = sides[self._choose(event)]
            side.positions.append(position)
            side.events.append(event)
        return sides

    def _call(self, step: Any, side: _Side, batch: int) -> Outcome | Awaitable[Outcome]:
        if not side.events:
            return Outcome(side.events)
        if step is self._current:
            result: Outcome | Awaitable[Outcome] = step.process(side.events, batch)
            return result
        try:
            result = step.process(side.events, batch)
        except BaseException as error:
            return _failed(step, side, error)
        return result

    async def _await_both(self, old: _Side, new: _Side, results: Sequence[Outcome | Awaitable[Outcome]]) -> Outcome:
        current, candidate = await asyncio.gather(_outcome(results[0]), self._contained(new, results[1]))
        return self._together(old, new, current, candidate)

    async def _contained(self, new: _Side, result: Outcome | Awaitable[Outcome]) -> Outcome:
        try:
            return await _outcome(result)
        except BaseException as error:
            if is_ours(error):
                raise
            return _failed(self._candidate, new, error)

    async def _await_old(self, events: list[Event], result: Awaitable[Outcome]) -> Outcome:
        return self._all_old(events, await result)

    def _all_old(self, events: list[Event], outcome: Outcome) -> Outcome:
        self._count("old", len(events), events, outcome)
        return outcome

    def _together(self, old: _Side, new: _Side, current: Outcome, candidate: Outcome) -> Outcome:
        """Return one outcome of two, in the order of the events that they were made of."""
        self._count("old", len(old.events), old.events, current)
        self._count("new", len(new.events), new.events, candidate)
        made: list[tuple[tuple[int, ...], Event]] = []
        refused = []
        for side, outcome in ((old, current), (new, candidate)):
            sources = origins(side.events, outcome, range(len(outcome.events)))
            made += [
                (tuple(side.positions[at] for at in own), event)
                for own, event in zip(sources, outcome.events, strict=True)
            ]
            refused += [placed(dead, side.positions[dead.refusal.position]) for dead in outcome.refused]
        made.sort(key=lambda one: one[0][:1])
        refused.sort(key=lambda dead: dead.refusal.position)
        return Outcome([event for _, event in made], refused, (), [own for own, _ in made])

    def _count(self, side: str, given: int, events: list[Event], outcome: Outcome) -> None:
        self._counts[side] += given
        self._counts[f"{side}_refused"] += len(outcome.refused)
        if outcome.events is not events:
            self._counts[f"{side}_dropped"] += max(given - len(outcome.events) - len(outcome.refused), 0)


class OverlappingCanary(Canary):
    """The same where both work on several batches at once."""

    def submit(self, events: list[Event]) -> Awaitable[Outcome]:
        """Take the events of a batch, and return what is awaited for their outcome."""
        old, new = self._divided(events)
        if not new.events:
            return self._await_old(events, self._current.submit(events))
        results = [
            step.submit(side.events) if side.events else Outcome(side.events)
            for step, side in ((self._current, old), (self._candidate, new))
        ]
        return self._await_both(old, new, results)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Wait for no more events."""
        self._current.flush()
        self._candidate.flush()

    @property
    def limit(self) -> tuple[int, int]:
        """The numbers of events and bytes without an outcome that the one in use takes."""
        limit: tuple[int, int] = self._current.limit
        return limit

    def shape(self) -> CallShape:
        """Return what the calls of the one in use are like."""
        shape: CallShape = self._current.shape()
        return shape


async def _outcome(result: Outcome | Awaitable[Outcome]) -> Outcome:
    return await result if inspect.isawaitable(result) else result


def _failed(step: Step, side: _Side, error: BaseException) -> Outcome:
    """Return the outcome of a share of which a step has failed on the whole."""
    return Outcome([], [placed(died(step.name, event, error), at) for at, event in enumerate(side.events)])
