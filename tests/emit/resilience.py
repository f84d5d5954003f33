"""Emitters that follow a script, and their resilience with a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from polku import (
    Batch,
    Event,
    Failure,
    Resilience,
)
from polku.emit.adapt import built
from polku.emit.resilience import Resilient
from tests.support.clock import FakeClock


class Scripted:
    """Answer each call with the next of a script: None, failures, or an exception."""

    concurrency = 2

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls: list[list[str]] = []

    async def emit(self, batch: Batch) -> list[Failure] | None:
        self.calls.append(batch.ids)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception):
            raise answer
        return answer


def resilient(
    inner: Any, *, draw: Callable[[], float] = lambda: 1.0, **options: Any
) -> tuple[Resilient, list[float], FakeClock]:
    clock = FakeClock()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)
        await asyncio.sleep(0)

    config = Resilience(inner, **options)
    return Resilient(built(inner, clock), config, config.breaker.build(clock), sleep=sleep, draw=draw), slept, clock


async def until(state: Callable[[], bool]) -> None:
    """Let everything else run until a state is reached."""
    for _ in range(1_000):
        if state():
            return
        await asyncio.sleep(0)
    raise AssertionError("the state was not reached")


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id) for event_id in ids])


async def forever(seconds: float) -> None:
    await asyncio.Event().wait()
