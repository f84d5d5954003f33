"""The circuit in front of a destination opens, waits, tries one batch and closes again."""

from __future__ import annotations

import asyncio

from polku import (
    Batch,
    Breaker,
    Failure,
    RetryableError,
)
from polku.emit.breaker import State
from tests.emit.resilience import Scripted, batch, resilient, until


async def test_the_circuit_opens_waits_and_closes_again() -> None:
    inner = Scripted(*[RetryableError("down")] * 3)
    running, slept, _ = resilient(inner, breaker=Breaker(failures=2, first=30, open_for=30, successes=2))
    assert await running.emit(batch("a")) == []
    assert [pause for pause in slept if pause >= 30] == [30, 30]
    assert running.statistics().circuit is State.HALF_OPEN
    await running.emit(batch("b"))
    assert running.statistics().circuit is State.CLOSED


async def test_while_the_circuit_is_half_open_one_batch_is_tried_at_a_time() -> None:
    class Slow(Scripted):
        under_way = most = 0

        async def emit(self, batch: Batch) -> list[Failure] | None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            return await super().emit(batch)

    inner = Slow(RetryableError("down"))
    running, _, _ = resilient(inner, breaker=Breaker(failures=1, successes=4))
    await running.emit(batch("a"))
    assert running.statistics().circuit is State.HALF_OPEN
    await asyncio.gather(*(running.emit(batch(name)) for name in "bc"))
    assert inner.most == 1
    await asyncio.gather(*(running.emit(batch(name)) for name in "def"))
    assert running.statistics().circuit is State.CLOSED
    assert inner.most == 2


async def test_a_destination_that_refuses_everything_event_by_event_opens_the_circuit_too() -> None:
    running, slept, _ = resilient(Scripted(*[[Failure("a", "full")]] * 5))
    task = asyncio.ensure_future(running.emit(batch("a")))
    await until(lambda: len(slept) == 5)
    assert running.statistics().alarm == "full"
    assert await task == []
