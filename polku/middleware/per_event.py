"""Run a function of one event over a batch: what raises, hangs or returns nonsense costs only its own event."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple

from polku.aio.eager import Started
from polku.batch.receipt import Refusal
from polku.checks import is_async, shorten
from polku.codes import Code
from polku.contracts import DeadEvent, Outcome
from polku.event.v1.event_pb2 import Event
from polku.text import line, named, trace
from polku.usercode import is_ours


class Failed(NamedTuple):
    """Stand in the place of a result for an event that user code failed on."""

    dead: DeadEvent


Combine = Callable[[str, list[Event], list[Any], bool], Outcome]

_PLAIN = frozenset({bool, int, str, type(None), Event, dict, Failed})  # types of results that cannot be awaited


class Each:
    """Be the running form of Filter, Transform, Router, Enricher, Validator and a Sampler with a key.

    `combine(name, events, results, failed)` makes the outcome of the function's results, one of them for each event,
    in order; `failed` says whether any of them is a `Failed`. `reads_only` says that the function changes no event.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Event], Any],
        combine: Combine,
        *,
        drop_reason: str = "filtered",
        timeout: float = 30.0,
        concurrency: int = 64,
        reads_only: bool = False,
    ) -> None:
        self.name = name
        self.drop_reason = drop_reason
        self.reads_only = reads_only
        self._function = function
        self._combine = combine
        self._timeout = timeout
        self._concurrency = concurrency
        self._is_async = is_async(function)

    def process(self, events: list[Event], batch: int) -> Outcome | Awaitable[Outcome]:
        """Call the function for every event."""
        if self._is_async:
            return self._await_each(events, self._function, events)
        results = self._call_each(events)
        kinds = set(map(type, results))
        if not kinds <= _PLAIN and any(map(inspect.isawaitable, results)):
            return self._await_each(events, _itself, results)  # a lambda around an async function
        return self._conclude(events, results, Failed in kinds)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        """Keep nothing."""

    def _conclude(self, events: list[Event], results: list[Any], failed: bool) -> Outcome:
        """Make the outcome of the results; one that raises when it is looked at costs its own event alone."""
        try:
            return self._combine(self.name, events, results, failed)
        except BaseException:
            return self._combine(self.name, events, list(map(self._checked, events, results)), True)

    def _checked(self, event: Event, result: Any) -> Any:
        try:
            self._combine(self.name, [event], [result], isinstance(result, Failed))
        except BaseException as error:
            return Failed(died(self.name, event, error))
        return result

    def _call_each(self, events: list[Event]) -> list[Any]:
        """Return a result for each event, in order: 30 ns an event beside the function's own time."""
        results: list[Any] = []
        remaining = iter(events)
        while len(results) < len(events):
            try:
                # An iterator keeps its place when the function raises, so no event is handed to it twice.
                results.extend(map(self._function, remaining))
                if len(results) < len(events):
                    raise RuntimeError("raised StopIteration")
            except BaseException as error:
                results.append(Failed(died(self.name, events[len(results)], error)))
        return results

    async def _await_each(self, events: list[Event], call: Callable[[Any], Any], given: Sequence[Any]) -> Outcome:
        """Await what `call` returns for each of the given, up to `concurrency` at a time."""
        results: list[Any] = [None] * len(events)
        places = iter(range(len(events)))
        ended = False

        async def work() -> None:
            for place in places:
                try:
                    results[place] = await self._bounded(events[place], call, given[place])
                except BaseException as error:
                    if is_ours(error, cancelled=ended):
                        raise
                    _uncancel()  # the function has cancelled the task that it runs in
                    results[place] = Failed(died(self.name, events[place], error))

        workers = [asyncio.ensure_future(work()) for _ in range(min(self._concurrency, len(events)))]
        try:
            await asyncio.wait(workers)
        finally:
            ended = True
            for worker in workers:
                worker.cancel()
        for worker in workers:
            worker.result()
        return self._conclude(events, results, Failed in map(type, results))

    async def _bounded(self, event: Event, call: Callable[[Any], Any], given: Any) -> Any:
        """Return the result, awaited. What returns without having waited for anything needs no time limit.

        Without the timer, such a function costs a quarter.
        """
        try:
            awaitable = call(given)
            if not inspect.isawaitable(awaitable):
                return awaitable
            if hasattr(awaitable, "__await__"):  # not so: a generator that `types.coroutine` has marked
                steps = awaitable.__await__()
                try:
                    awaitable = Started(steps, next(steps))
                except StopIteration as end:
                    return end.value
        except BaseException as error:
            return Failed(died(self.name, event, error))
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await awaitable
        except BaseException as error:
            if is_ours(error):
                raise
            return Failed(late(self.name, event, self._timeout) if limit.expired() else died(self.name, event, error))


def died(name: str, event: Event, error: BaseException) -> DeadEvent:
    """Make a dead event of an exception that user code raised."""
    reason = f"{name}: {named(error)}"
    return DeadEvent(event, Refusal(event.id, Code.MIDDLEWARE_ERROR, reason), trace(error))


def late(name: str, event: Event, timeout: float) -> DeadEvent:
    """Make a dead event of async user code that did not return in time."""
    reason = f"{name}: did not return within {timeout:g} s"
    return DeadEvent(event, Refusal(event.id, Code.MIDDLEWARE_TIMEOUT, reason))


def wrong_result(name: str, event: Event, value: object, expected: str) -> DeadEvent:
    """Make a dead event of a return value that cannot be used."""
    reason = line(f"{name}: returned {shorten(value)} ({type(value).__name__}), expected {expected}")
    return DeadEvent(event, Refusal(event.id, Code.MIDDLEWARE_ERROR, reason))


def separate(results: Iterable[Event | DeadEvent | None]) -> Outcome:
    """Make an outcome of a result for each given event, in order: one that continues, a dead one, or None (dropped)."""
    events: list[Event] = []
    origins: list[tuple[int, ...]] = []
    dead: list[DeadEvent] = []
    kept = bytearray()
    for position, result in enumerate(results):
        kept.append(isinstance(result, Event))
        if isinstance(result, Event):
            events.append(result)
            origins.append((position,))
        elif result is not None:
            dead.append(placed(result, position))
    return Outcome(events, dead, (), origins, bytes(kept))


def chosen(events: Sequence[Event], kept: bytes) -> Outcome:
    """Make an outcome of those given events that have a 1 in `kept`."""
    return Outcome(list(compress(events, kept)), kept=kept)


def placed(dead: DeadEvent, position: int) -> DeadEvent:
    """Return a dead event with its position in the list that the step was given."""
    return dead._replace(refusal=dead.refusal._replace(position=position))


def _itself(value: Any) -> Any:
    return value


def _uncancel() -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
