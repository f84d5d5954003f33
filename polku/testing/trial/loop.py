"""An event loop in virtual time: when all tasks wait, the clock jumps to the next timer.

While a thread of an executor works, or a socket is open, time passes as it really does: what they do takes real time.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from polku.testing.trial.clock import VirtualClock

_LOOK_SECONDS = 0.02
_LAST_SECONDS = 2.0  # for the cleaning up after a run that has taken too long


class OverdueError(Exception):
    """Say that a run has taken too long, or that nothing would ever happen in it again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Run in the time of a clock; after `timeout` real seconds, or when nothing can happen any more, call `on_end`.

    That function gets the reason as a sentence.
    """

    def __init__(self, clock: VirtualClock, timeout: float, on_end: Callable[[str], object]) -> None:
        self._clock = clock
        self._selector_in_use = _Selector(self, clock, timeout)
        self.on_end = on_end
        self.in_threads = 0
        super().__init__(self._selector_in_use)

    def time(self) -> float:
        """Return the clock's monotonic time in seconds."""
        return self._clock.monotonic()

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread; until it returns, time passes as it really does."""
        future = super().run_in_executor(executor, func, *args)
        self.in_threads += 1
        future.add_done_callback(self._returned)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads, in real time."""
        self.in_threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self.in_threads -= 1

    def _returned(self, future: asyncio.Future[Any]) -> None:
        self.in_threads -= 1


class _Selector(selectors.DefaultSelector):
    """Wait for nothing: where no socket is ready, let the clock jump."""

    def __init__(self, loop: VirtualLoop, clock: VirtualClock, timeout: float) -> None:
        super().__init__()
        self._loop = loop
        self._clock = clock
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._is_ending = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if time.monotonic() > self._deadline:
            self._end(f"it was not done after {self._timeout:g} s")
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self._loop.in_threads or len(self.get_map()) > 1:  # one is the loop's own
            return self._wait(timeout)
        self._clock.advance(math.ceil(timeout * 1e9) / 1e9)  # rounded down, a timer could never be reached
        return []

    def _wait(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        began = time.monotonic()
        ready = super().select(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS))
        self._clock.advance(time.monotonic() - began)
        return ready

    def _end(self, reason: str) -> None:
        if self._is_ending:
            raise OverdueError(reason)
        self._is_ending = True
        self._deadline = time.monotonic() + _LAST_SECONDS
        self._loop.call_soon(self._loop.on_end, reason)
