"""The standard output of the program that runs the pipeline, wherever its emitter is.

In one process it is written directly, in a thread, so that a reader who does not read holds up nothing but the
emitter. An emitter's actor has no such output: there the text waits until the program has fetched and written it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Protocol

from polku.errors import MisconfiguredError


class Console(Protocol):
    """Write text to the program's standard output."""

    async def write(self, text: bytes) -> None:
        """Return when the text is written; raises `MisconfiguredError` where nobody reads it any more."""
        ...


class DirectConsole:
    """Write to the standard output of this process."""

    async def write(self, text: bytes) -> None:
        """Write in a thread of its own."""
        try:
            await asyncio.to_thread(write_out, text)
        except OSError as error:
            raise MisconfiguredError(f"standard output cannot be written: {error}") from None


class RelayConsole:
    """Keep text until the program that runs the pipeline has written it."""

    def __init__(self) -> None:
        self._number = 0
        self._pending: dict[int, tuple[bytes, asyncio.Future[None]]] = {}
        self._more = asyncio.Event()

    async def write(self, text: bytes) -> None:
        """Return when the program has confirmed that it wrote the text."""
        self._number += 1
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[self._number] = (text, done)
        self._more.set()
        await done

    async def next(self, confirmed: int, fault: str) -> tuple[int, bytes]:
        """Return what is to be written, and its number; all up to `confirmed` has been, or failed with `fault`."""
        for number in [number for number in self._pending if number <= confirmed]:
            _, done = self._pending.pop(number)
            if done.done():
                continue
            if fault:
                done.set_exception(MisconfiguredError(f"standard output cannot be written: {fault}"))
            else:
                done.set_result(None)
        while not self._pending:
            self._more.clear()
            await self._more.wait()
        return max(self._pending), b"".join([text for text, _ in self._pending.values()])


def write_out(text: bytes) -> None:
    """Write to this process's standard output, and flush it."""
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


_current: list[Console] = [DirectConsole()]


def current() -> Console:
    """Return the console of this process."""
    return _current[0]


def use(console: Console) -> None:
    """Make a console that of this process."""
    _current[0] = console
