"""Background tasks with an owner that notices their end.

A task that nobody awaits and that raises ends in silence, and whatever it was there for never happens again. So every
task that lives in the background belongs to a `TaskSet`: it is logged and counted when it fails, started again where it
is to live as long as its owner, and ended with it. `fault` says what does not work, for the owner's statistics and, by
way of them, for health.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from polku.log import RepeatedLog
from polku.text import named
from polku.usercode import as_exception, is_ours

T = TypeVar("T")

_REPEATED = RepeatedLog(logging.getLogger(__name__))


class TaskSet:
    """The background tasks of one part of a pipeline, each under a name; `owner` is what the log calls the part.

    `pause` is in seconds: how long after a failure a task that is kept alive begins again.
    """

    def __init__(self, owner: str, *, pause: float = 1.0) -> None:
        self._owner = owner
        self._pause = pause
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled: WeakSet[asyncio.Task[Any]] = WeakSet()  # by the owner
        self._again: dict[str, asyncio.TimerHandle] = {}  # what strangers have cancelled begins again then
        self._faults: dict[str, str] = {}
        self._failures = 0

    @property
    def fault(self) -> str:
        """What failed and has not worked since; empty while all is well."""
        return "; ".join(f"{name}: {text}" for name, text in self._faults.items())

    @property
    def failures(self) -> int:
        """How often a task has failed since the start."""
        return self._failures

    def __len__(self) -> int:
        return len(self._tasks)

    def keep_alive(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work()` until it returns or the set is closed; where it raises, begin again after a pause.

        So it does where anybody but the owner cancels it, as user code can that cancels all tasks of the event loop.
        The work reports by `works(name)` that it got something done, or waits for something to do: until then a failure
        stays in `fault`.
        """
        task = self._add(name, self._keep_alive(name, work))
        task.add_done_callback(partial(self._begin_again, name, work))

    def start(self, name: str, work: Awaitable[T]) -> asyncio.Task[T]:
        """Run work that ends by itself; a failure stays in `fault` until work of the same name has ended well."""
        task = self._add(name, self._run(name, work))
        if isinstance(work, Coroutine):
            task.add_done_callback(lambda _: work.close())  # cancelled at once, it never began
        return task

    def works(self, name: str) -> None:
        """Forget the failure of a task: it works."""
        if self._faults:
            self._faults.pop(name, None)

    def note(self, name: str, error: BaseException) -> None:
        """Show in `fault` what work failed with that its own code does again; `works` ends it."""
        self._failures += 1
        self._faults[name] = named(error)
        _REPEATED.exception((self._owner, name), "%s: %s failed", self._owner, name)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for every task to end, for a number of seconds at most; return whether they have ended."""
        try:
            async with asyncio.timeout(seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            return False
        return True

    async def end(self, name: str) -> None:
        """Cancel the tasks of a name, and return when they have ended."""
        await asyncio.gather(*self._cancel_those(name), return_exceptions=True)

    def cancel(self, name: str) -> None:
        """Cancel the tasks of a name, also those that are kept alive."""
        self._cancel_those(name)

    async def close(self) -> None:
        """Cancel every task and return when they have ended."""
        await asyncio.gather(*self._cancel_those(None), return_exceptions=True)

    def _cancel_those(self, name: str | None) -> list[asyncio.Task[Any]]:
        """Cancel the tasks of a name, or all but the one that asks, and return them."""
        for waiting in list(self._again) if name is None else [name]:
            if (timer := self._again.pop(waiting, None)) is not None:
                timer.cancel()
        if name is None:
            tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        else:
            tasks = [task for task in self._tasks if task.get_name() == f"{self._owner}: {name}"]
        self._cancelled.update(tasks)
        for task in tasks:
            task.cancel()
        return tasks

    def _begin_again(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], task: asyncio.Task[None]) -> None:
        """Begin again what a stranger has cancelled, after a pause: a loop that ends cancels its tasks too."""
        if task.cancelled() and task not in self._cancelled:
            self._failures += 1
            self._faults[name] = "was cancelled by other code"
            _REPEATED.warning((self._owner, name), "%s: %s was cancelled by other code", self._owner, name)
            begin = partial(self._go_on, name, work)
            self._again[name] = asyncio.get_running_loop().call_later(self._pause, begin)

    def _go_on(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._again.pop(name, None)
        self.keep_alive(name, work)

    def _add(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}: {name}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, name))
        return task

    def _ended(self, name: str, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it was told of: nobody needs to ask

    async def _keep_alive(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except BaseException as error:
                if is_ours(error):
                    raise
                self.note(name, error)
            else:
                self.works(name)
                return
            await asyncio.sleep(self._pause)

    async def _run(self, name: str, work: Awaitable[T]) -> T:
        try:
            result = await work
        except BaseException as error:
            if is_ours(error):
                raise
            self.note(name, error)
            if isinstance(error, Exception):
                raise
            raise as_exception(error) from error
        self.works(name)
        return result
