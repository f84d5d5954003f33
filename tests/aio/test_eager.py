"""Work is begun at once, and goes on in a task where it has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from polku.aio.eager import start_eagerly


async def plus_one(value: Any) -> int:
    if isinstance(value, Awaitable):
        value = await value
    if isinstance(value, Exception):
        raise value
    return int(value) + 1


async def test_work_that_waits_for_nothing_is_done_without_a_task() -> None:
    assert start_eagerly(plus_one(1)).result() == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_work_that_fails_at_once_holds_its_exception() -> None:
    with pytest.raises(ValueError, match="no"):
        await start_eagerly(plus_one(ValueError("no")))


async def test_work_that_is_cancelled_at_once_is_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    assert start_eagerly(plus_one(future)).cancelled()


async def test_work_goes_on_when_what_it_waits_for_is_there() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    work = start_eagerly(plus_one(future))
    assert not work.done()
    future.set_result(2)
    assert await work == 3


async def test_what_it_waits_for_may_be_there_before_its_task_has_begun_and_may_be_a_turn_of_the_loop() -> None:
    async def work() -> list[Any]:
        seen: list[Any] = []
        for _ in range(3):
            seen.append(await asyncio.sleep(0, "turn"))
        seen.append(asyncio.current_task())
        return seen

    task = start_eagerly(work())
    assert await task == ["turn", "turn", "turn", task]


async def test_an_exception_arrives_where_it_waits_and_it_may_wait_again() -> None:
    loop = asyncio.get_running_loop()
    first: asyncio.Future[int] = loop.create_future()
    second: asyncio.Future[int] = loop.create_future()

    async def work() -> int:
        try:
            return await first
        except ValueError:
            return await second

    task = start_eagerly(work())
    first.set_exception(ValueError())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.set_result(7)
    assert await task == 7


@pytest.mark.parametrize("turns", [0, 2])
async def test_a_cancelled_one_lets_go_of_what_it_holds(turns: int) -> None:
    lock = asyncio.Lock()

    async def work() -> None:
        async with lock:
            await asyncio.Event().wait()

    task = start_eagerly(work())
    assert lock.locked()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lock.locked()
