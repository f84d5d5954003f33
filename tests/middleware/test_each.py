"""Async user code: what waits for nothing is not given a timer, and sees no difference."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from polku.event.v1.event_pb2 import Event
from polku.middleware import Filter
from tests.middleware.harness import events, ids, refused, run
from tests.support.virtual_time import in_virtual_time


class Custom:
    """An awaitable of one's own that waits twice."""

    def __await__(self) -> Generator[Any, Any, bool]:
        for _ in range(2):
            yield from asyncio.sleep(0).__await__()
        return True


@types.coroutine
def marked() -> Generator[Any, Any, bool]:
    yield from asyncio.sleep(0).__await__()
    return True


async def at_once() -> bool:
    return True


async def later() -> bool:
    for _ in range(3):
        await asyncio.sleep(0.001)
    return True


def done() -> asyncio.Future[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(True)
    return future


@pytest.mark.parametrize("make", [at_once, later, done, Custom, marked, lambda: asyncio.ensure_future(later())])
async def test_whatever_can_be_awaited_is(make: Callable[[], Awaitable[bool]]) -> None:
    outcome = await run(Filter(lambda event: make()), events("a", "b"))
    assert ids(outcome) == ["a", "b"]
    assert not outcome.refused


@in_virtual_time
async def test_the_task_and_its_time_limits_are_the_same_before_and_after_a_wait() -> None:
    tasks = []

    async def slow(event: Event) -> bool:
        tasks.append(asyncio.current_task())
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(10)
        except TimeoutError:
            tasks.append(asyncio.current_task())
        await asyncio.sleep(0)  # it may go on after its own limit has passed
        return event.id == "a"

    outcome = await run(Filter(slow, concurrency=1), events("a", "b"))
    assert ids(outcome) == ["a"]
    assert len(set(tasks)) == 1


async def test_an_error_before_or_after_the_first_wait_costs_its_own_event() -> None:
    async def fail(event: Event) -> bool:
        if event.id == "early":
            raise KeyError("early")
        if event.id == "ends":
            next(iter(()))
        await asyncio.sleep(0)
        if event.id == "late":
            raise ValueError("late")
        return True

    outcome = await run(Filter(fail), events("early", "late", "ends", "fine"))
    assert ids(outcome) == ["fine"]
    assert [dead.refusal.message for dead in outcome.refused] == [
        "Filter(fail): KeyError: 'early'",
        "Filter(fail): ValueError: late",
        "Filter(fail): RuntimeError: coroutine raised StopIteration",
    ]


@in_virtual_time
async def test_code_that_catches_its_cancellation_is_still_given_up_in_time() -> None:
    async def stubborn(event: Event) -> bool:
        while event.id == "a":
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                raise
        return True

    outcome = await run(Filter(stubborn, timeout=0.001), events("a", "b"))
    assert ids(outcome) == ["b"]
    assert set(refused(outcome)) == {"a"}
