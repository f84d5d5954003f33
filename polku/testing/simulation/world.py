"""A world of its own for pipelines: one seed decides about time, chance, disks, networks and destinations.

Inside of it `time`, `random` and `os.urandom` are the world's, and threads do not exist: blocking calls run a moment
later in the loop. It is entered and left in one thread; outside nothing has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import threading
import time
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from polku.testing.simulation.ledger import Ledger
from polku.testing.simulation.loop import Process, SimulatedLoop, current_process

if TYPE_CHECKING:
    from types import TracebackType

    from polku.buffer.log import Log
    from polku.testing.simulation.disk import Disk

T = TypeVar("T")

_EPOCH_NS = 1_700_000_000_000_000_000


class World:
    """Hold the loop, the clocks, the chances and the ledger of one case; a context manager."""

    content_key = "world"

    def __init__(self, seed: int, *, trace: bool = False, limit: int = 200_000) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.loop = SimulatedLoop(Random(seed + 1), limit=limit)
        self.ledger = Ledger(lambda: self.now)
        self.disks: dict[str, Disk] = {}
        self.open_log: Callable[..., Log] | None = None  # makes another log of a durable buffer than the model
        self.is_traced = trace
        self.fuse_of_replay = 0  # callbacks until whoever next takes replayed letters out of their file is killed
        self.on_accepted: list[Callable[[str], None]] = []
        self.on_committed: list[Callable[[str], None]] = []
        self._patches: list[tuple[Any, str, Any]] = []
        self._born = self.loop.time()
        self._wall_ns = _EPOCH_NS + zlib.crc32(str(seed).encode()) * 1_000_000_000
        self._chance = Random(seed + 2)
        self._was: Any = None
        self._level = logging.NOTSET
        self._collects = False

    @property
    def now(self) -> float:
        """The virtual seconds since the beginning."""
        return self.loop.time() - self._born

    def time_ns(self) -> int:
        """Return the wall clock, which may jump."""
        return self._wall_ns + int(self.now * 1e9)

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock forth, or back."""
        self.trace(f"the wall clock jumps by {seconds:g} s")
        self._wall_ns += int(seconds * 1e9)

    def trace(self, text: str) -> None:
        """Print what happens, where that is wanted."""
        if self.is_traced:
            process = current_process()
            print(f"{self.now:10.4f} {process.name if process else '':14} {text}")

    def patch(self, owner: Any, name: str, value: Any) -> None:
        """Put something in the place of an attribute until the world is left."""
        self._patches.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def run(self, main: Coroutine[Any, Any, T], process: Process | None = None) -> T:
        """Run a coroutine to its end in virtual time."""
        task = self.loop.spawn(process or Process("main"), main)
        return self.loop.run_until_complete(task)

    def __enter__(self) -> World:
        from polku import ids
        from polku.aio.threads import DaemonExecutor
        from polku.buffer import place
        from polku.change import content
        from polku.link import epoch

        self._was = random.getstate()
        random.seed(self.seed)
        for name, value in {"monotonic": self.loop.time, "time_ns": self.time_ns, "time": self._time}.items():
            self.patch(time, name, value)
        self.patch(time, "sleep", partial(_sleep, time.sleep, threading.get_ident(), self.loop.advance))
        self.patch(os, "urandom", self._chance.randbytes)
        self.patch(random, "_urandom", self._chance.randbytes)
        self.patch(DaemonExecutor, "__init__", _no_thread)
        self.patch(DaemonExecutor, "submit", _at_once)
        self.patch(DaemonExecutor, "shutdown", _no_thread)
        self.patch(epoch, "_latest", 0)
        self.patch(place, "mount_of", _no_mount)
        self.patch(content, "_is_ours_to_read", _nothing_of)  # what modules hold stays as it is in a case
        with contextlib.suppress(KeyError):  # Python 3.11 notes every task, slowly, for `asyncio.all_tasks`
            self.patch(vars(asyncio.tasks)["_all_tasks"], "add", _nothing)
        self.patch(ids, "_generator", ids.IdGenerator())  # they depend on nothing but the seed
        log = logging.getLogger("polku")
        self._level = log.level
        log.setLevel(logging.INFO if self.is_traced else logging.CRITICAL + 1)
        self._collects = gc.isenabled()
        gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.loop.bury()
        self.loop.close()
        for owner, name, value in reversed(self._patches):
            setattr(owner, name, value)
        self._patches.clear()
        random.setstate(self._was)
        logging.getLogger("polku").setLevel(self._level)
        if self._collects:
            gc.enable()

    def _time(self) -> float:
        return self.time_ns() / 1e9


def _sleep(really: Callable[[float], None], thread: int, advance: Callable[[float], None], seconds: float, /) -> None:
    """Let the world's time pass in its own thread: there may be others in the process, which sleep in theirs."""
    (advance if threading.get_ident() == thread else really)(seconds)


def _no_thread(self: object, *arguments: object, **options: object) -> None:
    """Start and stop nothing."""


def _nothing(task: object) -> None:
    """Note no task: the loop has its own list."""


def _nothing_of(name: str | None, module: object = None) -> bool:
    """Read nothing of a module: what it holds takes long to describe."""
    return False


def _no_mount(path: Path) -> tuple[Path, str]:
    """Return an ordinary disk's mount: which ones there are is no part of the simulation, and takes long to read."""
    return Path("/"), "ext4"


def _at_once(self: object, call: Callable[..., T], /, *arguments: object, **options: object) -> Future[T]:
    done: Future[T] = Future()
    try:
        done.set_result(call(*arguments, **options))
    except BaseException as error:
        done.set_exception(error)
    return done
