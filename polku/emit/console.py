"""The standard output of the program that runs the pipeline, wherever its emitter is.

In one process it is written directly, in a thread, so that a reader who does not read holds up nothing but the
emitter. An emitter's actor has no such output: there the text waits until the program has fetched and written it.
What is once begun cannot be taken back: who gave up waiting for a text, and writes it again, waits for the first.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import select
import sys
import threading
from typing import Protocol

from polku.errors import MisconfiguredError
from polku.text import said

UNWRITABLE = "standard output cannot be written: "


class Console(Protocol):
    """Write text to the program's standard output."""

    async def write(self, text: bytes) -> None:
        """Return when the text is written; raises `MisconfiguredError` where nobody reads it any more."""
        ...


class DirectConsole:
    """Write to the standard output of this process, one text after the other."""

    def __init__(self) -> None:
        self._running: _Text | None = None

    async def write(self, text: bytes) -> None:
        """Write in a thread of its own, which does not keep the process from ending."""
        while (running := self._running) is not None:
            await running.wait()
            if running.is_abandoned and running.content == text:
                break
            if self._running is running:
                self._running = None
        else:
            running = self._running = _Text(text)
            threading.Thread(target=_write_text, args=(running,), name="polku-stdout", daemon=True).start()
        await running.own()
        if self._running is running:
            self._running = None


class RelayConsole:
    """Keep text until the program that runs the pipeline has written it."""

    def __init__(self) -> None:
        self._number = 0
        self._pending: dict[int, _Text] = {}
        self._more = asyncio.Event()

    async def write(self, text: bytes) -> None:
        """Return when the program has confirmed that it wrote the text."""
        abandoned = (other for other in self._pending.values() if other.is_abandoned and other.content == text)
        pending = next(abandoned, None)
        if pending is None:
            pending = _Text(text)
            self._number += 1
            self._pending[self._number] = pending
            self._more.set()
        await pending.own()

    async def next(self, confirmed: int, fault: str) -> tuple[int, bytes]:
        """Return what is to be written, and its number; all up to `confirmed` has been, or failed with `fault`."""
        for number in [number for number in self._pending if number <= confirmed]:
            self._pending.pop(number).finish(fault)
        while not self._pending:
            self._more.clear()
            await self._more.wait()
        return max(self._pending), b"".join([text.content for text in self._pending.values()])


class _Text:
    """A text on its way; `is_abandoned` once the one who wrote it gave up waiting."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.is_abandoned = False
        self._fault: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._fault.set_running_or_notify_cancel()

    async def wait(self) -> None:
        """Return when it is written or failed."""
        await asyncio.wait((asyncio.wrap_future(self._fault),))

    async def own(self) -> None:
        """Return when it is written, raise where it failed, and note if nobody waits for that any more."""
        self.is_abandoned = False
        try:
            await self.wait()
        except asyncio.CancelledError:
            self.is_abandoned = True
            raise
        fault = self._fault.result(0)
        if fault:
            raise MisconfiguredError(f"{UNWRITABLE}{fault}")

    def finish(self, fault: str) -> None:
        """Note that it is written (no fault), or why it is not."""
        self._fault.set_result(fault)


def write_out(text: bytes) -> None:
    """Write to this process's standard output; raises `OSError`.

    It goes past Python's own buffer: a thread that waits here holds no lock that the interpreter needs to end.
    """
    stream = sys.stdout
    if stream is not sys.__stdout__ or stream is None:
        return _write_to_replacement(text)
    try:
        descriptor = stream.fileno()
    except ValueError as error:
        raise OSError(str(error)) from None
    rest = memoryview(text)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody made the pipe or terminal that we share non-blocking
            select.select([], [descriptor], [])
    return None


def _write_to_replacement(text: bytes) -> None:
    if sys.stdout is None:
        raise OSError("the program has none")
    buffer = getattr(sys.stdout, "buffer", None)
    try:
        if buffer is None:
            sys.stdout.write(text.decode())
        else:
            buffer.write(text)
        sys.stdout.flush()
    except ValueError as error:
        raise OSError(str(error)) from None


def _write_text(text: _Text) -> None:
    try:
        write_out(text.content)
    except BaseException as error:  # whatever stands in for standard output: the emitter must hear of it
        text.finish(said(error))
    else:
        text.finish("")


_current: list[Console] = [DirectConsole()]


def current() -> Console:
    """Return the console of this process."""
    return _current[0]


def use(console: Console) -> None:
    """Make a console that of this process."""
    _current[0] = console
