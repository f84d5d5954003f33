"""Processes of this node that have ended: known at once, where Ray says so up to two seconds later."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection
from typing import NamedTuple


class _Watched(NamedTuple):
    pid: int
    descriptor: int


class ProcessWatch:
    """Call `on_end` in the event loop with the name of a part and the number of its process, once that has ended.

    Where the system has no descriptors of processes (they are Linux's) nothing is called.
    """

    def __init__(self, on_end: Callable[[str, int], None]) -> None:
        self._on_end = on_end
        self._watched: dict[str, _Watched] = {}

    def watch(self, name: str, pid: int) -> None:
        """Watch this process of a part, and no longer the one before."""
        known = self._watched.get(name)
        if known is not None and known.pid == pid:
            return
        self.forget(name)
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            loop.call_soon(self._on_end, name, pid)
        except (AttributeError, OSError):  # another system, or a container that does not allow it
            return
        else:
            self._watched[name] = _Watched(pid, descriptor)
            loop.add_reader(descriptor, self._note, name)

    def keep(self, names: Collection[str]) -> None:
        """Watch these parts alone."""
        for name in self._watched.keys() - set(names):
            self.forget(name)

    def forget(self, name: str) -> None:
        """Watch a part no longer."""
        if (watched := self._watched.pop(name, None)) is not None:
            asyncio.get_running_loop().remove_reader(watched.descriptor)
            os.close(watched.descriptor)

    def _note(self, name: str) -> None:
        pid = self._watched[name].pid
        self.forget(name)
        self._on_end(name, pid)


async def first_to_end(pids: Collection[int], seconds: float) -> tuple[int, ...]:
    """Return which of these processes of this node have ended, as soon as one has; none after that many seconds."""
    ended: set[int] = set()
    one_has = asyncio.Event()

    def note(name: str, pid: int) -> None:
        ended.add(pid)
        one_has.set()

    watch = ProcessWatch(note)
    try:
        for pid in pids:
            watch.watch(str(pid), pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await one_has.wait()
    finally:
        watch.keep(())
    return tuple(ended)
