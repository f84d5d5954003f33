"""Which exceptions are failures of the code that was called, and which end the caller."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from polku.errors import UserCodeError
from polku.text import named
from polku.usercode import as_exception, contained, is_ours
from tests.support.hostile import HOSTILE


async def verdict(work: Awaitable[Any], verdicts: list[bool]) -> None:
    try:
        await work
    except BaseException as error:
        verdicts.append(is_ours(error))
        if is_ours(error):
            raise


async def raise_it(error: type[BaseException]) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("error", HOSTILE)
async def test_what_awaited_code_raises_by_itself_is_its_failure(error: type[BaseException]) -> None:
    verdicts: list[bool] = []
    await verdict(raise_it(error), verdicts)
    assert verdicts == [False]


async def test_awaiting_a_task_that_somebody_has_cancelled_is_a_failure() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    verdicts: list[bool] = []
    await verdict(task, verdicts)
    assert verdicts == [False]


async def test_the_cancellation_of_the_caller_is_its_own() -> None:
    verdicts: list[bool] = []
    task = asyncio.ensure_future(verdict(asyncio.sleep(60), verdicts))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert verdicts == [True]


async def test_a_timeout_around_the_caller_is_its_own() -> None:
    verdicts: list[bool] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await verdict(asyncio.sleep(60), verdicts)
    assert verdicts == [True]


def test_a_coroutine_that_is_closed_where_it_waits_ends() -> None:
    verdicts: list[bool] = []
    loop = asyncio.new_event_loop()
    work = verdict(forever(), verdicts)
    loop.run_until_complete(first_step(work))
    work.close()
    loop.close()
    gc.collect()
    assert verdicts == [True]


async def first_step(work: Any) -> None:
    work.send(None)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_there_need_not_be_an_event_loop() -> None:
    assert not is_ours(asyncio.CancelledError())


@pytest.mark.parametrize("error", HOSTILE)
async def test_a_task_can_hold_what_stands_for_it(error: type[BaseException]) -> None:
    with pytest.raises(UserCodeError, match=error.__name__) as caught:
        await asyncio.ensure_future(contained(raise_it(error)))
    assert isinstance(caught.value.__cause__, error)


async def test_an_ordinary_exception_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match="no"):
        await contained(fail(ValueError("no")))


async def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [StopIteration(3), SystemExit(2), ValueError("no")])
async def test_a_future_can_hold_what_stands_for_it(error: BaseException) -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(as_exception(error))
    with pytest.raises(Exception, match=str(error)):
        await future


def test_it_survives_pickling() -> None:
    assert str(pickle.loads(pickle.dumps(as_exception(SystemExit(2))))) == "SystemExit: 2"


class RudeError(Exception):
    def __init__(self, answer: Callable[[], str]) -> None:
        self.answer = answer

    def __str__(self) -> str:
        return self.answer()


def exit_process() -> str:
    raise SystemExit


def interrupt() -> str:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no"),
        (SystemExit(), "SystemExit"),
        (as_exception(SystemExit(2)), "SystemExit: 2"),
        (RudeError(exit_process), "RudeError: (its text cannot be had: SystemExit)"),
        (RudeError(interrupt), "RudeError: (its text cannot be had: KeyboardInterrupt)"),
        (RudeError(lambda: "x" * 600), f"RudeError: {'x' * 499}…"),
    ],
)
def test_it_is_described_by_type_and_text(error: BaseException, text: str) -> None:
    assert named(error) == text
