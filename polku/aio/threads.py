"""A thread for calls that block, which does not keep the process alive: a disk that hangs must not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonExecutor(concurrent.futures.Executor):
    """Run calls one after the other on a thread that does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._wake = threading.Condition()
        self._work: list[tuple[concurrent.futures.Future[object], Callable[[], object]]] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> concurrent.futures.Future[T]:
        """Queue a call; raises `RuntimeError` after `shutdown`: nobody would make it."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._wake:
            if self._stopped:
                raise RuntimeError(f"the thread {self._thread.name} has ended")
            self._work.append((future, lambda: fn(*args, **kwargs)))  # type: ignore[arg-type]
            self._wake.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after what is queued."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._work and not self._stopped:
                    self._wake.wait()
                if not self._work:
                    return
                future, call = self._work.pop(0)
            make(future, call)


def make(future: concurrent.futures.Future[Any], call: Callable[[], object]) -> None:
    """Make a call, unless its future was cancelled, and have the future hold what it returns or raises."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


class DaemonThreads:
    """Run that many calls at once, each on a thread that does not keep the process alive; others wait.

    Calls one after the other are on the same thread. A call that was cancelled has its thread until it returns.
    """

    def __init__(self, name: str, count: int) -> None:
        self._idle = [DaemonExecutor(f"{name}-{number}") for number in range(count)]
        self._free = asyncio.Semaphore(count)
        self._stopped = False

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what the function returns; cancelling does not end it. Raises `RuntimeError` after `shutdown`."""
        if self._stopped:
            raise RuntimeError("the threads have ended")
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        thread = self._idle.pop()
        return await loop.run_in_executor(_Lent(thread, partial(self._returned, loop, thread)), function, *arguments)

    def shutdown(self) -> None:
        """End the threads, each after its call."""
        self._stopped = True
        for thread in self._idle:
            thread.shutdown()

    def _returned(self, loop: asyncio.AbstractEventLoop, thread: DaemonExecutor, _: object) -> None:
        """Take a thread back: called in it, or where its call was cancelled before it began."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._take_back, thread)

    def _take_back(self, thread: DaemonExecutor) -> None:
        self._idle.append(thread)
        self._free.release()
        if self._stopped:
            thread.shutdown()


class _Lent(concurrent.futures.Executor):
    """A thread for one call, and what is called at its end."""

    def __init__(self, thread: DaemonExecutor, returned: Callable[[object], None]) -> None:
        self._thread = thread
        self._returned = returned

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> concurrent.futures.Future[T]:
        future = self._thread.submit(fn, *args, **kwargs)
        future.add_done_callback(self._returned)
        return future
