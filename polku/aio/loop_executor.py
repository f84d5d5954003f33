"""The executor of an event loop, for calls that block: those of `asyncio.to_thread`."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from polku.aio.threads import make

T = TypeVar("T")


class LoopExecutor(concurrent.futures.ThreadPoolExecutor):
    """The executor of an event loop that works for as long as the program does, and does not keep it from ending.

    Python's own takes nothing more once the main thread is done, when a pipeline may still have to be stopped, and the
    program waits for its threads. A loop takes no executor of another class.
    """

    def __init__(self, name: str, most: int = 32) -> None:
        super().__init__(1)  # of whose threads none is started
        self._name, self._most, self._count = name, most, 0
        self._mutex = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[concurrent.futures.Future[Any], Callable[[], object]]]
        self._calls = queue.SimpleQueue()
        self._free = threading.Semaphore(0)

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> concurrent.futures.Future[T]:
        """Queue a call, and start a thread for it where none is free and there may be another."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._mutex:
            if not self._free.acquire(blocking=False) and self._count < self._most:
                threading.Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()
                self._count += 1
            self._calls.put((future, partial(fn, *args, **kwargs)))
        return future

    def _run(self) -> None:
        while True:
            make(*self._calls.get())
            self._free.release()
