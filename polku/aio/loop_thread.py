"""The event loop that pipelines of this process share, in a thread of its own.

One loop for all: grpc.aio objects must stay on the loop that made them, and a process serves best with one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from polku.aio.loops import new_event_loop
from polku.errors import NotRunningError, PipelineError
from polku.log import RepeatedLog
from polku.text import said
from polku.usercode import contained

_REPEATED = RepeatedLog(logging.getLogger(__name__))
T = TypeVar("T")
_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def loop() -> asyncio.AbstractEventLoop:
    """Return the running loop, starting its thread on first use (and anew in a forked child)."""
    with _lock:
        running = _loops.get(os.getpid())
        if running is None:
            from polku.aio.loop_executor import LoopExecutor  # as the program ends it cannot be imported

            running = new_event_loop()
            running.set_default_executor(LoopExecutor("polku-call"))
            threading.Thread(target=run, args=(running,), name="polku", daemon=True).start()
            _loops.clear()
            _loops[os.getpid()] = running
        return running


def run(running: asyncio.AbstractEventLoop, ended: Callable[[], bool] = lambda: False) -> None:
    """Run a loop until it has ended.

    `sys.exit` in a task or callback of user code ends that task and nothing else, and `stop()` of the loop nothing.
    """
    while True:
        try:
            running.run_forever()
            if ended():
                return
            _REPEATED.warning("stop", "user code has stopped the event loop: it continues")
        except (SystemExit, KeyboardInterrupt) as error:
            name = type(error).__name__
            _REPEATED.exception(name, "%s in a task of user code: the event loop continues", name)


def submit(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Run a coroutine on the loop and return its future.

    Raises `SettingError` where there can be no such loop, and `NotRunningError` where the interpreter is ending.
    """
    try:
        running = loop()
    except RuntimeError as error:  # of a thread that cannot be started any more, or its like
        work.close()
        fix = "the program ends, or may have no more threads or memory"
        raise NotRunningError(f"the event loop of pipelines cannot be started ({said(error)}): {fix}") from None
    except BaseException:
        work.close()
        raise
    return asyncio.run_coroutine_threadsafe(contained(work), running)


def detached(work: concurrent.futures.Future[T]) -> concurrent.futures.Future[T]:
    """Return a future of the same outcome that cannot be cancelled: who waits no longer leaves the work alone.

    A timeout around `asyncio.wrap_future` cancels what it waits for. Where the work itself was cancelled,
    `NotRunningError` is raised.
    """
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()

    def pass_on(done: concurrent.futures.Future[T]) -> None:
        if done.cancelled():
            outcome.set_exception(NotRunningError("this was cancelled before it was done; start the pipeline again"))
        elif (error := done.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(done.result())

    work.add_done_callback(pass_on)
    return outcome


def check_elsewhere(instead: str) -> None:
    """Raise `PipelineError` on the loop itself, where code that blocks until it has done something waits for ever.

    `instead` is what such code does.
    """
    if asyncio._get_running_loop() is _loops.get(os.getpid(), ()):
        raise PipelineError(
            f"this would block the event loop that it waits for, with every pipeline of the process; {instead}"
        )


def wait(future: concurrent.futures.Future[T], instead: str) -> T:
    """Return the result of work on the loop once it is there; raises `PipelineError` as `check_elsewhere` does."""
    if not future.done():
        check_elsewhere(instead)
    return future.result()


def call(work: Coroutine[Any, Any, T], instead: str, timeout: float | None = None) -> T:
    """Run a coroutine on the loop and return its result; raises `PipelineError` as `check_elsewhere` does."""
    try:
        check_elsewhere(instead)
    except PipelineError:
        work.close()
        raise
    return submit(work).result(timeout)


def check_process(started: int) -> None:
    """Raise `NotRunningError` in a fork of the process in which a pipeline was started: nothing works on it there."""
    if os.getpid() != started:
        raise NotRunningError(
            f"the pipeline runs in process {started}, of which this one is a fork: start one after the fork, in each "
            "process that sends (gunicorn: post_fork), or send to the address of the other"
        )
