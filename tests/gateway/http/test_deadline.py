"""A time limit that is moved often is kept by one timer."""

from __future__ import annotations

import asyncio
import time

from polku.gateway.http.deadline import Deadline


class Calls:
    """Count calls, and the timers that are started for them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.came = asyncio.Event()
        self.deadline = Deadline(self._come)

    def _come(self) -> None:
        self.times.append(time.monotonic())
        self.came.set()

    async def wait(self) -> float:
        """Return when it was called."""
        await asyncio.wait_for(self.came.wait(), 30)
        self.came.clear()
        return self.times[-1]


async def test_a_limit_that_is_moved_on_is_the_last_one() -> None:
    calls, began = Calls(), time.monotonic()
    calls.deadline.set(0.01, began)
    for _ in range(100):
        calls.deadline.set(0.2, began)
    assert await calls.wait() >= began + 0.2
    assert len(calls.times) == 1


async def test_a_limit_that_comes_nearer_is_kept() -> None:
    calls, began = Calls(), time.monotonic()
    calls.deadline.set(1_000, began)
    calls.deadline.set(0.01, began)
    assert await calls.wait() >= began + 0.01


async def test_a_limit_that_is_cleared_does_not_call_and_may_be_set_again() -> None:
    calls, began = Calls(), time.monotonic()
    calls.deadline.set(0.01, began)
    calls.deadline.clear()
    other = Calls()
    other.deadline.set(0.1, began)
    await other.wait()
    assert calls.times == []
    calls.deadline.set(0.01, time.monotonic())
    await calls.wait()


async def test_a_limit_that_is_closed_leaves_no_timer() -> None:
    calls, other = Calls(), Calls()
    calls.deadline.set(0.01, time.monotonic())
    calls.deadline.close()
    other.deadline.set(0.1, time.monotonic())
    await other.wait()
    assert calls.times == []
