"""One of the generator's connections."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from polku.bench.http2 import Connection

if TYPE_CHECKING:
    from polku.bench.generator import Generator

_SERVICE = "/polku.v1.Gateway/"


class Lane:
    """One connection: one stream of batches, or unary calls side by side."""

    def __init__(self, generator: Generator, number: int) -> None:
        self.number = number
        self.done = False
        self._generator = generator
        self._unary = generator.order.workload.unary
        self._connection: Connection
        self._stream = 0
        self._in_order: deque[tuple[int, float]] = deque()
        self._calls: dict[int, tuple[int, float]] = {}
        self._later: deque[tuple[int, float]] = deque()
        self._next = generator.order.first_batch + number

    @property
    def open(self) -> int:
        """Messages without an answer."""
        return len(self._in_order) + len(self._calls) + len(self._later)

    async def connect(self) -> None:
        """Open the connection, and the stream if there is one."""
        target = self._generator.order.target
        method = _SERVICE + ("SendEvent" if self._unary else "StreamEvents")
        loop = asyncio.get_running_loop()
        if target.startswith("unix:"):
            path = target.removeprefix("unix:").removeprefix("//")
            _, self._connection = await loop.create_unix_connection(lambda: Connection("localhost", method, self), path)
        else:
            host, _, port = target.rpartition(":")
            _, self._connection = await loop.create_connection(
                lambda: Connection(target, method, self), host.strip("[]"), int(port)
            )
        await self._connection.ready
        if not self._unary:
            self._stream = self._connection.open()

    def fill(self, places: int) -> None:
        """Have so many messages under way from now on."""
        for _ in range(places):
            if self._generator.more():
                self.send(time.monotonic())

    def send(self, intended: float) -> None:
        """Send the next batch, which should leave, or should have left, at a time."""
        number, self._next = self._next, self._next + self._generator.order.connections
        self._generator.sent += 1
        if not self._unary:
            self._in_order.append((number, intended))
            self._connection.send(self._stream, self._generator.message(number, intended))
        elif len(self._calls) < self._connection.streams // 2:  # those that are answered are open until they end
            stream = self._connection.call(self._generator.message(number, intended))
            self._calls[stream] = number, intended
        else:
            self._later.append((number, intended))

    def answered(self, stream: int, message: bytes) -> None:
        """Note an answer; in a closed loop, send the next."""
        number, intended = self._calls.pop(stream) if self._unary else self._in_order.popleft()
        self._generator.answered(number, intended, message)
        self._go_on()

    def ended(self, stream: int, status: str) -> None:
        """Note a call that ended; in a closed loop, one that was not answered is followed by another."""
        if self._unary:
            if self._calls.pop(stream, None) is not None:
                self._generator.failed_once(status)
                self._go_on()
        else:
            if status != "OK":
                self._generator.refusals[status] += 1
            self._end()

    def lost(self, reason: str) -> None:
        """Give up on what is open."""
        if not self.done:
            self._generator.example = self._generator.example or reason
        self._end()

    def finish_if_done(self) -> None:
        """End, where everything was sent and answered."""
        if not self.open and not self._generator.more() and not self.done:
            self._end()

    def close(self) -> None:
        """Shut the connection."""
        self.done = True
        self._connection.close()

    def _go_on(self) -> None:
        if self._later:
            number, intended = self._later.popleft()
            self._calls[self._connection.call(self._generator.message(number, intended))] = number, intended
        elif not self._generator.order.rate and self._generator.more():
            self.send(time.monotonic())
        self.finish_if_done()

    def _end(self) -> None:
        self.done = True
        self._generator.over()
