"""A thread for calls that block, which does not keep the process alive: a disk that hangs must not."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

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
        """Queue a call."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._wake:
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
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
