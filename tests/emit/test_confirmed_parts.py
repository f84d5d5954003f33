"""What a destination has confirmed of a call is not sent again, and calls are as large as there is time for."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from polku import (
    Batch,
    Failure,
    Resilience,
    Retry,
    RetryableError,
    WebhookEmitter,
)
from polku.emit.parts import send_parts
from polku.emit.progress import current
from polku.emit.resilience import Resilient
from tests.emit.resilience import Scripted, batch, forever, resilient, until
from tests.support.clock import FakeClock
from tests.support.virtual_time import in_virtual_time


class One(NamedTuple):
    """A part of one event."""

    ids: list[str]
    positions: list[int]

    def halves(self) -> list[One]:
        return [self]


class OneByOne:
    """Send each event alone, as a request that takes a while; the named ones hang once."""

    def __init__(self, seconds: float = 0.0, hanging: str = "") -> None:
        self.seconds = seconds
        self.hanging = set(hanging)
        self.sent: list[str] = []
        self.calls = 0

    async def emit(self, batch: Batch) -> list[Failure]:
        self.calls += 1
        return await send_parts([One([event.id], [n]) for n, event in enumerate(batch)], self._send)

    async def _send(self, part: One) -> list[Failure]:
        self.sent += part.ids
        if part.ids[0] in self.hanging:
            self.hanging.discard(part.ids[0])
            await asyncio.Event().wait()
        await asyncio.sleep(self.seconds)
        return []


@in_virtual_time
async def test_what_was_confirmed_when_the_time_was_up_is_not_sent_again() -> None:
    inner = OneByOne(hanging="c")
    running, _, _ = resilient(inner, timeout=0.05)
    assert await running.emit(batch("a", "b", "c", "d")) == []
    assert inner.sent == ["a", "b", "c", "c", "d"]


@in_virtual_time
async def test_a_call_may_take_as_long_as_it_confirms_something_in_time() -> None:
    inner = OneByOne(seconds=0.02)
    running, slept, _ = resilient(inner, timeout=0.15)
    assert await running.emit(batch(*map(str, range(20)))) == []
    assert inner.calls == 1
    assert slept == []


@in_virtual_time
async def test_what_was_confirmed_before_an_exception_is_not_sent_again() -> None:
    class Half(Scripted):
        async def emit(self, batch: Batch) -> list[Failure] | None:
            self.calls.append(batch.ids)
            if len(self.calls) == 1:
                current().settle([0, 2], [Failure("c", "bad", retryable=False, position=2)])
                raise OSError("cut")
            return None

    inner = Half()
    running, _, _ = resilient(inner)
    (failure,) = await running.emit(batch("a", "b", "c", "d"))
    assert (failure.event_id, failure.reason) == ("c", "bad")
    assert inner.calls == [["a", "b", "c", "d"], ["b", "d"]]


@in_virtual_time
async def test_a_slow_emitter_that_says_nothing_in_between_gets_smaller_calls_until_it_is_in_time() -> None:
    class Slow:
        def __init__(self) -> None:
            self.calls: list[int] = []
            self.done: list[str] = []

        async def emit(self, batch: Batch) -> None:
            self.calls.append(len(batch))
            await asyncio.sleep(0.004 * len(batch))
            self.done += batch.ids

    inner = Slow()
    running, _, _ = resilient(inner, timeout=0.2, retry=Retry(attempts=1))
    names = [str(n) for n in range(200)]  # 0.8 s in one call
    assert await running.emit(batch(*names)) == []
    assert inner.done == names
    assert inner.calls[0] == 200
    assert len(inner.calls) < 40


@in_virtual_time
async def test_calls_become_large_again_when_the_destination_is_quick_again() -> None:
    class Hanging:
        def __init__(self) -> None:
            self.calls: list[int] = []
            self.hangs = True

        async def emit(self, batch: Batch) -> None:
            self.calls.append(len(batch))
            if self.hangs and len(batch) > 1:
                await asyncio.Event().wait()
            self.hangs = False

    inner = Hanging()
    running, _, _ = resilient(inner, timeout=0.02)
    names = [str(n) for n in range(64)]
    assert await running.emit(batch(*names)) == []
    assert inner.calls == [64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 1]


def test_an_emitter_s_own_time_limit_wins_over_the_default() -> None:
    webhook = WebhookEmitter("http://localhost/", timeout=120)
    assert Resilience(webhook).limit > 120
    assert Resilience(webhook, timeout=5).limit == 5
    assert Resilience(Scripted()).limit == 60


@in_virtual_time
async def test_a_pause_that_the_destination_asks_for_after_some_parts_is_respected() -> None:
    class Busy(OneByOne):
        async def _send(self, part: One) -> list[Failure]:
            if part.ids == ["b"] and "b" not in self.sent:
                self.sent.append("b")
                raise RetryableError("busy", retry_after=42)
            return await super()._send(part)

    running, slept, _ = resilient(Busy())
    assert await running.emit(batch("a", "b")) == []
    assert slept == [42]


@in_virtual_time
async def test_an_emitter_whose_batches_are_indivisible_gets_them_whole() -> None:
    class Whole(Scripted):
        indivisible = True

    late: list[Any] = [TimeoutError(), ValueError("bug"), ValueError("bug")]
    inner = Whole(*late)
    running, _, _ = resilient(inner, retry=Retry(attempts=3))
    assert len(await running.emit(batch("a", "b"))) == 2
    assert inner.calls == [["a", "b"]] * 3


@in_virtual_time
async def test_released_calls_say_what_is_confirmed_and_that_the_rest_is_open() -> None:
    inner = OneByOne(hanging="c")
    running, _, _ = resilient(inner)
    emitting = asyncio.ensure_future(running.emit(batch("a", "b", "c", "d")))
    waiting = asyncio.ensure_future(running.emit(batch("e")))
    await until(lambda: sorted(inner.sent) == ["a", "b", "c", "e"])
    await rest()
    running.release_calls()
    assert [(f.event_id, f.position, f.retryable) for f in await emitting] == [("c", 2, True), ("d", 3, True)]
    assert await waiting == []
    (later,) = await running.emit(batch("f"))
    assert (later.event_id, later.retryable) == ("f", True)
    assert "f" not in inner.sent


@in_virtual_time
async def test_calls_that_wait_for_another_try_are_released_too() -> None:
    inner = Scripted([Failure("b", "no", retryable=False), Failure("c", "busy")])
    config = Resilience(inner)
    running = Resilient(inner, config, config.breaker.build(FakeClock()), sleep=forever)
    emitting = asyncio.ensure_future(running.emit(batch("a", "b", "c")))
    behind = asyncio.ensure_future(running.emit(batch("d")))
    await until(lambda: bool(inner.calls))
    await rest()
    running.release_calls()
    assert [(f.event_id, f.retryable) for f in await emitting] == [("b", False), ("c", True)]
    assert [(f.event_id, f.retryable) for f in await behind] == [("d", True)]


@in_virtual_time
async def test_a_call_that_is_cancelled_after_the_release_ends() -> None:
    running, _, _ = resilient(OneByOne(hanging="a"))
    emitting = asyncio.ensure_future(running.emit(batch("a")))
    await rest()
    emitting.cancel()
    running.release_calls()
    with pytest.raises(asyncio.CancelledError):
        await emitting


async def rest() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)
