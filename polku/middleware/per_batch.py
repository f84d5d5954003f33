"""Run user code that takes a whole batch: a class with `process(events)`, or a function with `batch=True`."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Any, NamedTuple

from polku.batch.lineage import origins
from polku.checks import shorten
from polku.clock import Clock
from polku.contracts import DeadEvent, Outcome
from polku.event.v1.event_pb2 import Event
from polku.ids import new_id
from polku.middleware.per_event import died, late, placed
from polku.text import said
from polku.usercode import is_ours


class Going(NamedTuple):
    """The events that go on, and the objects that user code returned for them where it returned one several times."""

    events: list[Event]
    objects: list[Event] | None = None


Accept = Callable[[list[Event], Any], Going]


class Whole:
    """Hand the batch to user code; where that raises, find the events that it raises on by halving the batch.

    The halves are made of fresh copies, so that no event is changed twice, though the code itself sees events again;
    with `reads_only` the events themselves serve. Keeping the copies costs 0.25 µs an event. `accept(events, result)`
    makes what goes on of what the code returned, or raises `WrongResultError`, which counts as raising.

    Async code that takes longer than `timeout` counts as raising too. A half gets half of the time, but at least
    1/16 of `timeout`; three times `timeout` after the start, whatever is then too late is given up unhalved.
    """

    drop_reason = "filtered"

    def __init__(
        self,
        name: str,
        function: Callable[[list[Event]], Any],
        accept: Accept,
        *,
        timeout: float = 30.0,
        reads_only: bool = False,
    ) -> None:
        self.name = name
        self.reads_only = reads_only
        self._function = function
        self._accept = accept
        self._timeout = timeout

    async def process(self, events: list[Event], batch: int) -> Outcome:
        """Return the events that user code returned, and those that it raises on."""
        if not events:
            return Outcome(events)
        kept: Sequence[Event | bytes] = events if self.reads_only else list(map(Event.SerializeToString, events))
        give_up = asyncio.get_running_loop().time() + 3 * self._timeout
        try:
            return await self._call(events, self._timeout)
        except BaseException as error:
            if is_ours(error):
                raise
            return await self._halve(kept, error, self._timeout, give_up)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        """Keep nothing."""

    async def _halve(
        self, kept: Sequence[Event | bytes], error: BaseException, limit: float, give_up: float, start: int = 0
    ) -> Outcome:
        """Call again with halves of the events, which stand from `start` on in what the step was given."""
        is_late = isinstance(error, TookTooLongError)
        hopeless = self._is_final(error) or (is_late and asyncio.get_running_loop().time() >= give_up)
        if len(kept) == 1 or hopeless:
            dead = [placed(self._dead(_event(one), error), place) for place, one in enumerate(kept, start)]
            return Outcome([], dead)
        if is_late:
            limit = max(limit / 2, self._timeout / 16)
        outcomes = []
        middle = len(kept) // 2
        for half, place in ((kept[:middle], start), (kept[middle:], start + middle)):
            given = [_event(event) for event in half]
            try:
                outcomes.append(_at(place, given, await self._call(given, limit)))
            except BaseException as deeper:
                if is_ours(deeper):
                    raise
                outcomes.append(await self._halve(half, deeper, limit, give_up, place))
        return _together(outcomes)

    def _is_final(self, error: BaseException) -> bool:
        """Return whether what a call raised would come of each part of its events too."""
        return False

    async def _call(self, events: list[Event], limit: float) -> Outcome:
        given = list(events)  # user code may change its list
        result = self._function(given)
        if inspect.isawaitable(result):
            result = await bounded(result, limit)
        going = self._accept(given, result)
        if going.objects is not None:  # the copies belong where the object does
            sources = origins(events, Outcome(going.objects), range(len(going.objects)))
            return Outcome(going.events, origins=sources)
        same = len(going.events) == len(events) and all(map(is_, going.events, events))
        return Outcome(events if same else going.events)

    def _dead(self, event: Event, error: BaseException) -> DeadEvent:
        if isinstance(error, TookTooLongError):
            return late(self.name, event, error.limit)
        dead = died(self.name, event, error)
        if isinstance(error, WrongResultError):
            return DeadEvent(event, dead.refusal._replace(message=f"{self.name}: {said(error)}"))
        return dead


class WrongResultError(TypeError):
    """Say that user code returned something that cannot be used."""

    def __init__(self, value: object, expected: str) -> None:
        super().__init__(f"returned {shorten(value)} ({type(value).__name__}), expected {expected}")


class TookTooLongError(Exception):
    """Say that async user code did not return in time."""

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self.limit = limit


def _at(start: int, given: list[Event], outcome: Outcome) -> Outcome:
    """Return what became of some of the events, which stand from `start` on, with what each was made of."""
    sources = origins(given, outcome, range(len(outcome.events)))
    dead = [placed(one, start + one.refusal.position) for one in outcome.refused]
    return outcome._replace(origins=[tuple(start + position for position in own) for own in sources], refused=dead)


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    events = [event for outcome in outcomes for event in outcome.events]
    dead = [one for outcome in outcomes for one in outcome.refused]
    sources = [own for outcome in outcomes for own in outcome.origins or ()]
    return Outcome(events, dead, (), sources)


def accept_events(clock: Clock, *, none_is_in_place: bool = False) -> Accept:
    """Take any iterable of events; those without an id or a time, made by user code, get them."""

    def accept(given: list[Event], result: Any) -> Going:
        if result is None and none_is_in_place:
            result = given
        if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
            raise WrongResultError(result, "the events that go on, as a list or another iterable")
        going = _each_its_own(result)
        fill_in(going.events, clock)
        return going

    return accept


def _each_its_own(result: Iterable[Any]) -> Going:
    """Return events of which none is another one: of an object that comes several times all but the last are copies.

    What is lazy may have changed the object in between: each copy is as the object was when it came.
    """
    is_lazy = not isinstance(result, (list, tuple))
    objects: list[Event] = []
    were: list[bytes] = []
    for value in result:
        if not isinstance(value, Event):
            raise WrongResultError(value, "nothing but Events among the events that go on")
        objects.append(value)
        if is_lazy:
            were.append(value.SerializeToString())
    last = {id(event): place for place, event in enumerate(objects)}
    if len(last) == len(objects):
        return Going(objects)
    events = list(objects)
    for place, event in enumerate(objects):
        if last[id(event)] != place:
            events[place] = Event.FromString(were[place] if is_lazy else event.SerializeToString())
    return Going(events, objects)


def fill_in(events: Iterable[Event], clock: Clock) -> None:
    """Give ids and times to events that user code made without them."""
    for event in events:
        if not event.id:
            event.id = new_id()
        if not event.timestamp_unix_ns:
            event.timestamp_unix_ns = clock.time_ns()


async def bounded(result: Any, limit: float) -> Any:
    """Return what user code returns, awaited; raises `TookTooLongError` after `limit` seconds."""
    try:
        async with asyncio.timeout(None if limit == math.inf else limit) as bound:
            return await result
    except BaseException as error:
        if bound.expired() and not is_ours(error):
            raise TookTooLongError(limit) from None
        raise


def _event(kept: Event | bytes) -> Event:
    return Event.FromString(kept) if isinstance(kept, bytes) else kept
