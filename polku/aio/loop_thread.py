"""The event loop that pipelines of this process share, in a thread of its own.

One loop for all: grpc.aio objects must stay on the loop that made them, and a process serves best with one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from polku.aio.loops import new_event_loop
from polku.errors import SettingError
from polku.log import RepeatedLog
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
            running = new_event_loop()
            threading.Thread(target=run, args=(running,), name="polku", daemon=True).start()
            _loops.clear()
            _loops[os.getpid()] = running
        return running


def run(running: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped: `sys.exit` in a task or callback of user code ends that task and nothing else."""
    while True:
        try:
            running.run_forever()
            return
        except (SystemExit, KeyboardInterrupt) as error:
            name = type(error).__name__
            _REPEATED.exception(name, "%s in a task of user code: the event loop continues", name)


def submit(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Run a coroutine on the loop and return its future; raises `SettingError` where there can be no such loop."""
    try:
        running = loop()
    except SettingError:
        work.close()
        raise
    return asyncio.run_coroutine_threadsafe(contained(work), running)
