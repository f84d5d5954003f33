"""One of the generator's connections."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from polku.http2.stream import Stream
from polku.rpc.channel import Channel, Target
from polku.rpc.client import GrpcClientConnection, request_head
from polku.rpc.status import Status, StatusCode

if TYPE_CHECKING:
    from polku.bench.generator import Generator

_SERVICE = "/polku.v1.Gateway/"


class LoadLane:
    """One connection: one stream of batches, or unary calls side by side."""

    def __init__(self, generator: Generator, number: int) -> None:
        self.number = number
        self.done = False
        self._generator = generator
        self._unary = generator.order.workload.unary
        self._channel = Channel(Target(generator.order.target))
        self._connection: GrpcClientConnection
        self._head = b""
        self._stream: Stream
        self._in_order: deque[tuple[int, float]] = deque()  # batches of the stream: number, and when each should leave
        self._calls = 0
        self._later: deque[tuple[int, float]] = deque()
        self._next = generator.order.first_batch + number

    @property
    def open(self) -> int:
        """Messages without an answer."""
        return len(self._in_order) + self._calls + len(self._later)

    async def connect(self) -> None:
        """Open the connection, and the stream if there is one."""
        target = self._generator.order.target
        method = _SERVICE + ("SendEvent" if self._unary else "StreamEvents")
        self._head = request_head("localhost" if target.startswith("unix:") else target, method, tls=False)
        self._connection = await self._channel.connection()
        self._connection.gone.add_done_callback(lambda _: self._lost())
        if not self._unary:
            self._stream = self._connection.begin(self._head, self)

    def fill(self, places: int) -> None:
        """Have this many messages in flight from now on."""
        for _ in range(places):
            if self._generator.more():
                self.send(time.monotonic())

    def send(self, intended: float) -> None:
        """Send the next batch, which should leave, or should have left, at a time."""
        number, self._next = self._next, self._next + self._generator.order.connections
        self._generator.sent += 1
        if not self._unary:
            self._in_order.append((number, intended))
            self._connection.post(self._stream, (self._generator.message(number, intended),))
        elif self._calls < self._connection.peer_streams // 2:  # those that are answered are open until they end
            self._call(number, intended)
        else:
            self._later.append((number, intended))

    def answered(self, message: bytes) -> None:
        """Note an answer of the stream; in a closed loop, send the next."""
        number, intended = self._in_order.popleft()
        self._generator.answered(number, intended, message)
        self._go_on()

    def ended(self, status: Status) -> None:
        """Note the end of the stream."""
        if status.code != StatusCode.OK:
            self._generator.refusals[StatusCode(status.code).name] += 1
            self._generator.example = self._generator.example or status.message
        self._end()

    def leaving(self, reason: str) -> None:
        """Go on: the stream is ended by the server."""

    def call_answered(self, number: int, intended: float, message: bytes) -> None:
        """Note the answer of a call; in a closed loop, make the next."""
        self._calls -= 1
        self._generator.answered(number, intended, message)
        self._go_on()

    def call_failed(self, status: Status) -> None:
        """Note a call that has no answer; in a closed loop, another follows."""
        self._calls -= 1
        self._generator.failed_once(StatusCode(status.code).name)
        self._go_on()

    def _lost(self) -> None:
        if not self.done:
            self._generator.example = self._generator.example or "the server has closed the connection"
        self._end()

    def finish_if_done(self) -> None:
        """End, where everything was sent and answered."""
        if not self.open and not self._generator.more() and not self.done:
            self._end()

    def close(self) -> None:
        """Shut the connection."""
        self.done = True
        self._connection.refuse_new()
        self._connection.abort()

    def _go_on(self) -> None:
        if self._later:
            self._call(*self._later.popleft())
        elif not self._generator.order.rate and self._generator.more():
            self.send(time.monotonic())
        self.finish_if_done()

    def _call(self, number: int, intended: float) -> None:
        self._calls += 1
        self._connection.ask(self._head, self._generator.message(number, intended), _Call(self, number, intended))

    def _end(self) -> None:
        self.done = True
        self._generator.over()


class _Call:
    """One unary call."""

    __slots__ = ("_intended", "_is_answered", "_lane", "_number")

    def __init__(self, lane: LoadLane, number: int, intended: float) -> None:
        self._lane = lane
        self._number = number
        self._intended = intended
        self._is_answered = False

    def answered(self, message: bytes) -> None:
        self._is_answered = True
        self._lane.call_answered(self._number, self._intended, message)

    def ended(self, status: Status) -> None:
        if not self._is_answered:
            self._lane.call_failed(status)

    def leaving(self, reason: str) -> None:
        """The call comes to its end."""
