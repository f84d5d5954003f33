"""Read the standard input: the end of a pipe in a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from polku import checks
from polku.clock import Clock
from polku.contracts import PulledStream, SourceState
from polku.errors import DrainingError
from polku.files.decode import READERS, BadText, Decode, Form, TooLong
from polku.files.lines import Grouper, Line, LineSplitter
from polku.files.source import begins_pattern, check_texts
from polku.ids import new_id
from polku.pull.in_flight import InFlight

_CHUNK_BYTES = 64 * 1024
_DESCRIPTOR = 0


@dataclass(frozen=True, slots=True)
class StdinSource:
    """Read the standard input: each line, or each record of several, becomes an event; `cat log | polku run file.py`.

    At its end `Hub.run` and `polku run` drain the pipeline and return, unless `stop_at_end` is false. What is read is
    acknowledged to nobody, so that a crash loses what is not in a journal by then. Where the pipeline takes nothing,
    nothing is read, and the program before the pipe waits. Not on Ray, whose actors have no standard input.

    The other options are those of `FileSource`; `source` is `stdin` if not given.
    """

    decode: Decode | str = field(default=Decode.TEXT, kw_only=True)
    event_type: str = field(default="log.line", kw_only=True)
    source: str = field(default="stdin", kw_only=True)
    cluster: str = field(default="", kw_only=True)
    format: str = field(default="", kw_only=True)
    multiline: str | None = field(default=None, kw_only=True)
    multiline_seconds: float = field(default=1.0, kw_only=True)
    max_line_bytes: int = field(default=256 * 1024, kw_only=True)
    too_long: TooLong | str = field(default=TooLong.REFUSE, kw_only=True)
    bad_text: BadText | str = field(default=BadText.REPLACE, kw_only=True)
    stop_at_end: bool = field(default=True, kw_only=True)
    name: str = field(default="stdin", kw_only=True)
    window: int = field(default=10_000, kw_only=True)
    window_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)

    one_process: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for option, kind in (("decode", Decode), ("too_long", TooLong), ("bad_text", BadText)):
            object.__setattr__(self, option, checks.choice("StdinSource", option, getattr(self, option), kind))
        check_texts("StdinSource", self)
        begins_pattern("StdinSource", self.multiline)
        for option in ("window", "window_bytes", "max_line_bytes"):
            checks.whole("StdinSource", option, getattr(self, option))
        checks.positive("StdinSource", "multiline_seconds", self.multiline_seconds)

    @property
    def readers(self) -> tuple[str, ...]:
        """The sources that must have an ingestor."""
        return (self.source,) if self.decode is Decode.INGESTOR else ()

    def build(self, clock: Clock) -> _Reader:
        """Make the running source."""
        return _Reader(self)


class _Reader:
    def __init__(self, config: StdinSource) -> None:
        self._config = config
        bad_text, too_long = BadText(config.bad_text), TooLong(config.too_long)
        self._form = Form(Decode(config.decode), config.event_type, bad_text, too_long, config.max_line_bytes)
        self._splitter = LineSplitter(config.max_line_bytes)
        self._grouper = Grouper(begins_pattern("StdinSource", config.multiline), config.max_line_bytes)
        self._in_flight = InFlight(config.window, config.window_bytes)
        self._run_id = new_id()
        self._stopped = asyncio.Event()
        self._reading = asyncio.Lock()
        self._records = 0
        self._is_over = False

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        """Read until the end, or `stop`."""
        config = self._config
        reader = READERS.get(Decode(config.decode), config.source)
        stream = open_stream(config.source, cluster=config.cluster, format=config.format, reader=reader)
        descriptor = _Descriptor(asyncio.get_running_loop())
        try:
            async with self._reading:
                await self._read(stream, descriptor)
                if self._is_over:
                    await self._in_flight.idle()
        except DrainingError:
            pass
        finally:
            descriptor.close()

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped.set()

    async def drain(self) -> None:
        """Wait until everything that was read is in."""
        self.stop()
        async with self._reading:
            await self._in_flight.idle()

    async def close(self) -> None:
        """Read nothing more."""
        self.stop()

    def state(self) -> SourceState:
        """Return a snapshot."""
        flying = self._in_flight.records
        text = f"{self._records} records, {flying} in flight{', at its end' if self._is_over else ''}"
        ended = self._is_over and not flying and self._config.stop_at_end
        return SourceState(text, "", self._records, 0, 0, flying, ended)

    async def _read(self, stream: PulledStream, descriptor: _Descriptor) -> None:
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            while not self._is_over and not self._stopped.is_set():
                await self._in_flight.room()
                data = asyncio.ensure_future(descriptor.read())
                quiet = self._config.multiline_seconds if self._grouper.start is not None else None
                await asyncio.wait([data, stopped], return_when=asyncio.FIRST_COMPLETED, timeout=quiet)
                while not data.done() and not stopped.done():  # the record that waits for more lines is complete
                    await self._hand_in(stream, self._grouper.flush())
                    await asyncio.wait([data, stopped], return_when=asyncio.FIRST_COMPLETED)
                if not data.done():
                    descriptor.wake()
                await self._take(stream, await data)  # what was read can be read by nobody else
        finally:
            stopped.cancel()

    async def _take(self, stream: PulledStream, data: bytes) -> None:
        if data and not self._stopped.is_set():
            await self._hand_in(stream, self._grouper.add(self._splitter.feed(data)))
            return
        lines = self._grouper.add(self._splitter.feed(data) + self._splitter.finish()) + self._grouper.flush()
        await self._hand_in(stream, lines)
        self._is_over = not data and not self._stopped.is_set()

    async def _hand_in(self, stream: PulledStream, lines: list[Line]) -> None:
        async for portion in self._in_flight.portions(lines):
            made = [self._form.record(one, "stdin", f"{self._run_id}-{one.start}-{one.end}", {}) for one in portion]
            answer = await stream.push(made)
            self._records += len(made)
            self._in_flight.add(answer, len(made), sum(len(one.content) for one in portion), _nothing)


class _Descriptor:
    """Read a descriptor in a thread that waits for it, or for the end of the wait; it stays as blocking as it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake, self._woken = os.pipe()[::-1]
        self._thread: threading.Thread | None = None

    async def read(self) -> bytes:
        """Return what is there, at least one byte; nothing at the end."""
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._thread = threading.Thread(target=self._wait, args=(answer,), name="polku-stdin", daemon=True)
        self._thread.start()
        return await answer

    def wake(self) -> None:
        """Have `read` return what is there now, or nothing."""
        os.write(self._wake, b"!")

    def close(self) -> None:
        """End the wait."""
        self.wake()
        if self._thread is not None:
            self._thread.join(5.0)
        os.close(self._wake)
        os.close(self._woken)

    def _wait(self, answer: asyncio.Future[bytes]) -> None:
        data, fault = b"", None
        try:
            ready, _, _ = select.select([_DESCRIPTOR, self._woken], [], [])
            data = os.read(_DESCRIPTOR, _CHUNK_BYTES) if _DESCRIPTOR in ready else b""
        except OSError as error:
            fault = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(partial(_answer, answer, data, fault))


def _answer(answer: asyncio.Future[bytes], data: bytes, fault: OSError | None) -> None:
    if answer.done():
        return
    if fault is not None:
        answer.set_exception(fault)
    else:
        answer.set_result(data)


def _nothing() -> None:
    """Tell nobody that a record is in."""
