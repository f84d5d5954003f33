"""The thread of a shadow: new middleware that works on copies of events, and can hold up nothing but itself.

It has an event loop of its own, so that code that blocks, hangs or raises costs the pipeline the time that Python gives
to another thread and nothing else. What comes while it has enough to do is not taken, and counted.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from polku.aio import loop_thread
from polku.candidate.comparison import Made, Result, compare, made_of
from polku.clock import Clock
from polku.contracts import Outcome
from polku.event.v1.event_pb2 import Event
from polku.hooks import CLOSE_SECONDS, call_hook, start_hook
from polku.log import RepeatedLog
from polku.stage.statistics import CandidateDifference
from polku.text import as_id, line, named
from polku.usercode import contained

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_MOST_WAITING = 1_000  # events
_MOST_BYTES = 16 * 1024 * 1024
_LATEST = 20
_CALL_SECONDS = 60.0  # for one call; async code alone can be ended
_END_SECONDS = 2.0  # for the thread to end


class _Work(NamedTuple):
    """Events as they were, serialised, and what the middleware in use made of each."""

    given: Sequence[bytes]
    made: Sequence[Made]
    size: int


class Found(NamedTuple):
    """The events by `Result`, the latest differences, how long the call in flight takes, and what does not work."""

    counts: Mapping[str, int]
    latest: Sequence[CandidateDifference]
    seconds: float
    fault: str


class ShadowThread:
    """Run new middleware on what is offered, and compare what it makes of it."""

    def __init__(self, name: str, candidate: object, clock: Clock) -> None:
        self._name = name
        self._candidate = candidate
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(map(str, Result), 0)
        self._latest: deque[CandidateDifference] = deque(maxlen=_LATEST)
        self._work: deque[_Work] = deque()
        self._waiting = self._bytes = 0  # of what has no result
        self._since = 0.0
        self._fault = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._call: asyncio.Future[Outcome] | None = None
        self._closing = False
        self._number = 0
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def start(self) -> None:
        """Start the thread, which builds and starts the middleware."""
        from polku.aio.loops import new_event_loop

        self._loop = new_event_loop()
        threading.Thread(target=self._run, args=(self._loop,), name=f"shadow-{self._name}", daemon=True).start()

    async def close(self) -> None:
        """End the thread; one that hangs is left to itself."""
        loop = self._loop
        if loop is None:
            return
        self._closing = True
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(self._stop)
        await asyncio.wait({asyncio.wrap_future(self._ended)}, timeout=_END_SECONDS)

    def has_room(self, count: int) -> bool:
        """Return whether that many events more would be taken; count them as skipped where not."""
        with self._lock:
            room = bool(self._loop) and not self._fault and not self._closing
            if room and self._waiting + count <= max(_MOST_WAITING, count) and self._bytes < _MOST_BYTES:
                return True
            self._counts[Result.SKIPPED] += count
            return False

    def offer(self, given: Sequence[bytes], made: Sequence[Made]) -> None:
        """Have the middleware work on events, and compare what it makes of each with what was made of it."""
        size = sum(map(len, given))
        with self._lock:
            self._waiting += len(given)
            self._bytes += size
            self._work.append(_Work(given, made, size))
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake.set)

    def found(self) -> Found:
        """Return what was found until now; from any thread."""
        with self._lock:
            seconds = time.monotonic() - self._since if self._since else 0.0
            return Found(dict(self._counts), tuple(reversed(self._latest)), seconds, self._fault)

    def _stop(self) -> None:
        self._wake.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        serving = loop.create_task(self._serve())
        serving.add_done_callback(lambda _: loop.stop())
        try:
            loop_thread.run(loop, serving.done)
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            self._ended.set_result(None)

    async def _serve(self) -> None:
        """Build and start the middleware, and have it work until the end."""
        from polku.middleware.adapt import as_step

        step: Any = None
        try:
            step = as_step(self._candidate, self._clock)
            step.name = self._name
            await start_hook(f"middleware {self._name!r}", step)
            while not self._closing:
                await self._wake.wait()
                self._wake.clear()
                await self._work_off(step)
        except BaseException as error:
            self._note(f"does not start: {named(error)}", error)
        finally:
            with contextlib.suppress(Exception):
                await call_hook(step, "close", seconds=CLOSE_SECONDS)

    async def _work_off(self, step: Any) -> None:
        while self._work and not self._closing:
            work = self._work.popleft()
            try:
                results = await self._results(step, work)
            except Exception as error:
                results = [(Result.FAILED, named(error))] * len(work.given)
            self._note_results(work, results)

    async def _results(self, step: Any, work: _Work) -> list[tuple[Result, str]]:
        """Return for each event how what the two made of it compares, and what differs."""
        events = [Event.FromString(one) for one in work.given]
        self._number += 1
        self._since = time.monotonic()
        try:
            outcome = await self._outcome(step, events, self._number)
            step.settled(self._number, frozenset(dead.refusal.position for dead in outcome.refused))
        finally:
            self._since = 0.0
        made = made_of(events, outcome, range(len(events)))
        return [compare(old, new) for old, new in zip(work.made, made, strict=True)]

    async def _outcome(self, step: Any, events: list[Event], number: int) -> Outcome:
        result = step.process(events, number)
        if isinstance(result, Outcome):
            return result
        assert inspect.isawaitable(result)
        self._call = asyncio.ensure_future(contained(result))
        try:
            await asyncio.wait({self._call}, timeout=_CALL_SECONDS)
            if not self._call.done():
                self._call.cancel()
                await asyncio.wait({self._call})  # until it ends nothing else is begun
                raise TimeoutError(f"did not return within {_CALL_SECONDS:g} s")
            if self._call.cancelled():
                raise TimeoutError("was ended")
            return self._call.result()
        finally:
            self._call = None

    def _note_results(self, work: _Work, results: Sequence[tuple[Result, str]]) -> None:
        now = self._clock.time_ns()
        with self._lock:
            self._waiting -= len(work.given)
            self._bytes -= work.size
            for given, (result, text) in zip(work.given, results, strict=True):
                self._counts[result] += 1
                if result is not Result.SAME:
                    event_id = as_id(Event.FromString(given).id)
                    self._latest.append(CandidateDifference(event_id, str(result), text, now))

    def _note(self, fault: str, error: BaseException) -> None:
        with self._lock:
            self._fault = line(fault)
            self._counts[Result.SKIPPED] += self._waiting
            self._waiting = self._bytes = 0
            self._work.clear()
        _REPEATED.exception(self._name, "the shadow %s %s", self._name, self._fault)
