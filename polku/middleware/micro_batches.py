"""Fill calls with events of many batches, make several at once, and tell each batch what became of its events."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Sequence
from operator import is_
from typing import Any, NamedTuple

from polku.aio.tasks import TaskSet
from polku.clock import Clock
from polku.contracts import CallShape, DeadEvent, Outcome, Step
from polku.errors import DrainingError
from polku.event.v1.event_pb2 import Event
from polku.histogram import Histogram
from polku.middleware.batching import Batching
from polku.middleware.per_event import died, separate

_GROUPS = 2  # how many times the events of the calls in flight may be without an outcome


class _Entry:
    """A batch, and what became of its events until now."""

    __slots__ = ("done", "due", "events", "left", "results")

    def __init__(self, events: list[Event], due: float) -> None:
        self.events = events
        self.due = due
        self.left = len(events)
        self.results: list[Event | DeadEvent | None] = [None] * len(events)
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def put(self, position: int, result: Event | DeadEvent | None) -> None:
        """Note the result of an event; with the last one the outcome is there."""
        self.results[position] = result
        self.left -= 1
        if not self.left and not self.done.done():
            same = all(map(is_, self.results, self.events))
            self.done.set_result(Outcome(self.events) if same else separate(self.results))


class _Item(NamedTuple):
    entry: _Entry
    position: int
    size: int

    @property
    def event(self) -> Event:
        return self.entry.events[self.position]


class MicroBatches:
    """Call `inner`, a step, with events of many batches; each batch's events keep their places.

    A failure of a call costs the events of that call alone. `close` gives up what is in flight.
    """

    drop_reason = "filtered"

    def __init__(self, name: str, inner: Step, batching: Batching, clock: Clock, *, is_async: bool = False) -> None:
        self._inner: Any = inner
        self.name = name
        self._batching = batching
        self._clock = clock
        self._at_once = batching.calls(is_async=getattr(inner, "is_async", is_async))
        self._waiting: deque[_Item] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = TaskSet(name)
        self._began: dict[int, float] = {}  # when each call in flight began, by its number
        self._number = self._full = self._aged = 0
        self._sizes, self._seconds = Histogram(unit=1.0), Histogram()
        self._open: set[asyncio.Future[Outcome]] = set()
        self._closed = False

    @property
    def name(self) -> str:
        """What it is called, and what is called by it."""
        return str(self._inner.name)

    @name.setter
    def name(self, name: str) -> None:
        self._inner.name = name

    async def start(self) -> None:
        """Load what is called, and warm it up."""
        if callable(start := getattr(self._inner, "start", None)):
            await start()

    async def close(self) -> None:
        """Give up what is in flight, and close what was called."""
        self._closed = True
        self._disarm()
        await self._tasks.close()
        for future in self._open:
            if not future.done():
                future.set_exception(DrainingError(f"{self.name} was closed"))
        if callable(close := getattr(self._inner, "close", None)):
            await close()

    @property
    def limit(self) -> tuple[int, int]:
        """The numbers of events and bytes that may be without an outcome."""
        groups = _GROUPS * (self._at_once + 1)
        return groups * self._batching.max_events, groups * self._batching.max_bytes

    def process(self, events: list[Event], batch: int) -> Awaitable[Outcome]:
        """Return the outcome of a batch, once its calls have returned."""
        return self.submit(events)

    def submit(self, events: list[Event]) -> asyncio.Future[Outcome]:
        """Take the events of a batch."""
        entry = _Entry(events, asyncio.get_running_loop().time() + self._batching.max_wait)
        if self._closed:
            entry.done.set_exception(DrainingError(f"{self.name} was closed"))
        elif not events:
            entry.done.set_result(Outcome(events))
        else:
            self._open.add(entry.done)
            entry.done.add_done_callback(self._open.discard)
            for position, event in enumerate(events):
                self._waiting.append(_Item(entry, position, event.ByteSize()))
                self._waiting_bytes += self._waiting[-1].size
            self._pump()
        return entry.done

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Have all that waits leave as soon as a call may begin."""
        for item in self._waiting:
            item.entry.due = 0.0
        self._pump()

    def statistics(self) -> object:
        """Return what the model says of itself."""
        own = getattr(self._inner, "statistics", None)
        return own() if callable(own) else None

    def shape(self) -> CallShape:
        """Return a snapshot of what the calls are like; from any thread."""
        return CallShape(
            self._batching.max_events,
            self._full,
            self._aged,
            getattr(self._inner, "retries", 0),
            len(self._waiting),
            len(self._began),
            min(self._began.copy().values(), default=0.0),
            self._sizes.distribution(),
            self._seconds.distribution(),
        )

    def _pump(self) -> None:
        """Begin the calls that may begin; look again when the first of the others is due."""
        self._disarm()
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._began) < self._at_once:
            is_full = self._is_full()
            due = self._waiting[0].entry.due
            if not is_full and due > loop.time():
                self._timer = loop.call_at(due, self._pump)
                return
            self._full += is_full
            self._aged += not is_full
            self._begin(self._take())

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._batching.max_events or self._waiting_bytes >= self._batching.max_bytes

    def _take(self) -> list[_Item]:
        """Take the events of one call."""
        taken: list[_Item] = []
        size = 0
        while self._waiting and len(taken) < self._batching.max_events:
            if taken and size + self._waiting[0].size > self._batching.max_bytes:
                break
            taken.append(self._waiting.popleft())
            size += taken[-1].size
        self._waiting_bytes -= size
        return taken

    def _begin(self, items: list[_Item]) -> None:
        self._number += 1
        self._began[self._number] = self._clock.monotonic()
        self._sizes.record(len(items))
        self._tasks.start("calls", self._call(self._number, items))

    async def _call(self, number: int, items: Sequence[_Item]) -> None:
        events = [item.event for item in items]
        try:
            results = await self._results(events)
        finally:
            self._seconds.record(self._clock.monotonic() - self._began.pop(number))
        for item, result in zip(items, results, strict=True):
            item.entry.put(item.position, result)
        if not self._closed:
            self._pump()

    async def _results(self, events: list[Event]) -> list[Event | DeadEvent | None]:
        """Return what became of each event; None: it does not go on."""
        try:
            outcome = self._inner.process(list(events), 0)
            return _by_position(await outcome if inspect.isawaitable(outcome) else outcome, events)
        except Exception as error:
            return [died(self.name, event, error) for event in events]


def _by_position(outcome: Outcome, events: list[Event]) -> list[Event | DeadEvent | None]:
    """Return the results by the positions of the events that each was made of."""
    if not outcome.refused and len(outcome.events) == len(events) and all(map(is_, outcome.events, events)):
        return list(outcome.events)
    results: list[Event | DeadEvent | None] = [None] * len(events)
    for event, origin in zip(outcome.events, outcome.origins or (), strict=True):
        results[origin[0]] = event
    for dead in outcome.refused:
        results[dead.refusal.position] = dead
    return results
