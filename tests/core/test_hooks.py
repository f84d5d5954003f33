"""Hooks of user code: in bounded time, named where they fail, and none keeps another from being called."""

from __future__ import annotations

import asyncio
import logging

import pytest

from polku import Event
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.emit.delivery import Delivery
from polku.errors import UserCodeError
from polku.hooks import HookFault, call_hook, close_each, close_hook, snapshot_of, start_hook
from tests.buffer.parts import until
from tests.support.hostile import HOSTILE


class Component:
    def __init__(self, *, close: BaseException | None = None, hangs: bool = False, deaf: bool = False) -> None:
        self.error = close
        self.hangs = hangs
        self.deaf = deaf
        self.released = asyncio.Event()
        self.closed = 0

    def start(self) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.closed += 1
        while self.hangs and not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
        if self.error is not None:
            raise self.error

    def emit(self, batch: Batch) -> None:
        pass


@pytest.mark.parametrize("error", HOSTILE)
async def test_what_a_hook_raises_comes_as_an_exception(error: type[BaseException]) -> None:
    component = Component(close=error())
    for hook in ("start", "close"):
        with pytest.raises(UserCodeError, match=error.__name__):
            await call_hook(component, hook)


async def test_a_start_that_fails_says_whose_it_is() -> None:
    with pytest.raises(ConnectionError, match="down") as caught:
        await start_hook("emitter 'db'", Component(close=ConnectionError("down")))
    assert caught.value.__notes__ == ["raised by start() of emitter 'db'"]


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_close_that_hangs_is_given_up(deaf: bool, caplog: pytest.LogCaptureFixture) -> None:
    component = Component(hangs=True, deaf=deaf)
    async with asyncio.timeout(30):
        await close_hook("emitter 'db'", component, seconds=0.01)
    assert "emitter 'db' could not be closed: TimeoutError: close() did not return within 0.01 s" in caplog.text
    component.released.set()


@pytest.mark.parametrize("error", [*HOSTILE, OSError])
async def test_one_that_cannot_be_closed_keeps_no_other_from_it(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    parts = [Component(close=error()), Component(), Component(close=error()), Component()]
    with caplog.at_level(logging.ERROR):
        await close_each([(f"part {number}", part.close) for number, part in enumerate(parts)])
    assert [part.closed for part in parts] == [1] * 4
    assert [name for name in ("part 0", "part 1", "part 2", "part 3") if name in caplog.text] == ["part 0", "part 2"]


async def test_a_cancellation_is_raised_when_all_are_closed() -> None:
    hanging, last = Component(hangs=True), Component()
    closing = asyncio.ensure_future(close_each([("hanging", hanging.close), ("last", last.close)]))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert last.closed == 1


async def test_a_hook_that_is_cancelled_with_its_caller_is_not_left_behind() -> None:
    component = Component(hangs=True)
    calling = asyncio.ensure_future(call_hook(component, "close", seconds=60))
    await until(lambda: component.closed == 1)
    calling.cancel()
    await asyncio.wait([calling])
    await asyncio.sleep(0)
    assert calling.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("error", [*HOSTILE, ValueError])
async def test_statistics_that_raise_show_in_health_and_end_nothing(error: type[BaseException]) -> None:
    class Broken(Component):
        def statistics(self) -> object:
            raise error

    assert snapshot_of(Component()) is None
    fault = snapshot_of(Broken())
    assert fault == HookFault(f"its statistics() raises {error.__name__}")
    delivery = Delivery("out", Broken())
    answer = await delivery.push(Batch.from_events([Event(id="a")]))
    assert isinstance(answer, Receipt)
    assert delivery.statistics().emitter == fault
