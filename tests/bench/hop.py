"""What it costs to hand something from one event loop to another thread's, and how late that is while Python computes.

    python -m tests.bench.hop

It is why the gateway's servers run on the event loop of the pipeline: see `docs/why-our-own-server.md`.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import NamedTuple

from polku.aio.loops import new_event_loop

_TIMES, _ROUNDS = 500, 7
_BUSY_SECONDS, _TICK_SECONDS = 2.0, 0.001


class Cost(NamedTuple):
    """Microseconds of CPU, and until the answer (the median); the least of the rounds."""

    cpu: float
    latency: float


async def cost_of(work: Callable[[], Awaitable[None]]) -> Cost:
    """Measure one way there and back."""
    rounds = []
    for _ in range(_ROUNDS):
        began, waits = time.process_time(), list[float]()
        for _ in range(_TIMES):
            sent = time.perf_counter()
            await work()
            waits.append(time.perf_counter() - sent)
        rounds.append(Cost((time.process_time() - began) / _TIMES * 1e6, statistics.median(waits) * 1e6))
    return Cost(min(one.cpu for one in rounds), min(one.latency for one in rounds))


async def within() -> None:
    """Go through two turns of the same event loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.call_soon(lambda: loop.call_soon(done.set_result, None))
    await done


async def through(other: asyncio.AbstractEventLoop) -> None:
    """Go to the other event loop, and back."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    other.call_soon_threadsafe(lambda: loop.call_soon_threadsafe(done.set_result, None))
    await done


def delays(other: asyncio.AbstractEventLoop) -> list[float]:
    """Compute in this thread; return the milliseconds by which a millisecond of the other's event loop was late."""
    came: list[float] = []
    stopped = threading.Event()

    def tick() -> None:
        came.append(time.perf_counter())
        if not stopped.is_set():
            other.call_later(_TICK_SECONDS, tick)

    other.call_soon_threadsafe(tick)
    ended, turns = time.perf_counter() + _BUSY_SECONDS, 0
    while time.perf_counter() < ended:
        turns += 1
    stopped.set()
    gaps = [later - sooner for sooner, later in pairwise(came)]
    return sorted((gap - _TICK_SECONDS) * 1e3 for gap in gaps)


async def measure() -> None:
    """Print the numbers."""
    other = new_event_loop()
    threading.Thread(target=other.run_forever, daemon=True).start()
    for name, cost in (
        ("two turns of the same event loop", await cost_of(within)),
        ("to another thread's, and back", await cost_of(lambda: through(other))),
    ):
        print(f"{name}: {cost.cpu:.1f} µs of CPU, {cost.latency:.1f} µs")
    late = delays(other)
    print(
        f"a millisecond next to a thread that computes: late by {late[len(late) // 2]:.1f} ms (p50), {late[-1]:.0f} ms"
    )
    other.call_soon_threadsafe(other.stop)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(measure())
