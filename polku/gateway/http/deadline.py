"""A time limit that is moved often: with each request, where a timer of the loop for each would cost 2 µs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Deadline:
    """Call a function when the time is up: one timer at most, which looks when it fires whether the limit has moved."""

    __slots__ = ("_call", "_due", "_fires", "_timer")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._due: float | None = None
        self._fires = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float, now: float) -> None:
        """Call after that many seconds from `now`, as the monotonic clock has it, and not before."""
        self._due = due = now + seconds
        if self._timer is None or self._fires > due:
            self._start(seconds, due)

    def clear(self) -> None:
        """Cancel the limit; a timer that is set does nothing when it fires."""
        self._due = None

    def close(self) -> None:
        """Cancel the limit and its timer."""
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, seconds: float, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires = due
        self._timer = asyncio.get_running_loop().call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left = self._due - time.monotonic()
        if left > 0:
            self._start(left, self._due)
        else:
            self._due = None
            self._call()
