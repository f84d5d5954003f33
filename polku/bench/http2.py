"""Call gRPC methods at a fraction of a client library's price, so that the generator does not eat what it measures.

A call of ours has constant headers, so they are encoded once; frames are cut and put together by hand (RFC 9113, and
gRPC's own framing). Measured with unary calls, 32 in flight: 70 µs of CPU a call, most of it the kernel's, where a
`grpc.aio` client takes 270. It knows what a generator needs and no more: no compression, no TLS, and of the headers
that come it reads the status alone.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Protocol

from polku.bench.header_blocks import read_status, request_headers

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK, _PADDED = 1, 4, 1, 8
_TABLE_SIZE, _PUSH, _STREAMS, _INITIAL_WINDOW, _FRAME_SIZE = 1, 2, 3, 4, 5
_WIDEST = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_REFILL = 2**29
_HEADER = struct.Struct(">BHBBI")  # of a frame: its length in 24 bits, kind, flags, stream


class Caller(Protocol):
    """Hear what became of the calls of a connection, in its event loop."""

    def answered(self, stream: int, message: bytes) -> None:
        """Take one message of a call."""
        ...

    def ended(self, stream: int, status: str) -> None:
        """Learn that a call is over, and with which gRPC status (`UNKNOWN` where none could be read)."""
        ...

    def lost(self, reason: str) -> None:
        """Learn that the connection is gone, and every open call with it."""
        ...


class Connection(asyncio.Protocol):
    """Hold one connection to a gRPC server; `method` is all that is called on it."""

    def __init__(self, authority: str, method: str, caller: Caller) -> None:
        self._headers = request_headers(authority, method)
        self._caller = caller
        self._transport: asyncio.Transport | None = None
        self._inbox = b""
        self._partial: dict[int, bytes] = {}
        self._waiting: deque[tuple[int, memoryview, bool]] = deque()
        self._window = _DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        self._initial_window = _DEFAULT_WINDOW
        self._frame_bytes = 16_384
        self._next = 1
        self._unacknowledged: dict[int, int] = {}
        self._corked = False
        self._corked_out: list[bytes] = []
        self.streams = _WIDEST
        self.ready = asyncio.get_running_loop().create_future()

    def open(self) -> int:
        """Begin a call and return its number."""
        stream, self._next = self._next, self._next + 2
        self._windows[stream] = self._initial_window
        self._write(_frame(_HEADERS, _END_HEADERS, stream, self._headers))
        return stream

    def call(self, message: bytes) -> int:
        """Begin a call that has this one message, and return its number."""
        size = len(message) + 5
        if self._waiting or size > min(self._window, self._initial_window, self._frame_bytes):
            stream = self.open()
            self.send(stream, message, last=True)
            return stream
        stream, self._next = self._next, self._next + 2
        self._windows[stream] = self._initial_window - size
        self._window -= size
        headers, data = (
            _frame(_HEADERS, _END_HEADERS, stream, self._headers),
            _HEADER.pack(size >> 16, size & 0xFFFF, _DATA, _END_STREAM, stream),
        )
        self._write(b"%b%b\x00%b%b" % (headers, data, len(message).to_bytes(4, "big"), message))
        return stream

    def send(self, stream: int, message: bytes, *, last: bool = False) -> None:
        """Send one message of a call; what the server has no room for yet waits."""
        data = memoryview(b"\x00" + len(message).to_bytes(4, "big") + message)
        self._waiting.append((stream, data, last))
        if len(self._waiting) == 1:
            self._flush()

    def end(self, stream: int) -> None:
        """Say that no message follows."""
        self._waiting.append((stream, memoryview(b""), True))
        self._flush()

    def close(self) -> None:
        """Shut the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the server."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        wanted = {_TABLE_SIZE: 0, _PUSH: 0, _INITIAL_WINDOW: _WIDEST}
        settings = b"".join(struct.pack(">HI", key, value) for key, value in wanted.items())
        window = struct.pack(">I", _WIDEST - _DEFAULT_WINDOW)
        self._write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, window))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the caller."""
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("the server has closed the connection"))
        self._caller.lost(str(exc) if exc else "the server has closed the connection")

    def data_received(self, data: bytes) -> None:
        """Cut what came into frames; what that lets the caller send goes out in one write."""
        self._corked = True
        inbox = self._inbox + data if self._inbox else data
        place, total = 0, len(inbox)
        while total - place >= 9:
            high, low, kind, flags, stream = _HEADER.unpack_from(inbox, place)
            end = place + 9 + (high << 16) + low
            if total < end:
                break
            self._take(kind, flags, stream & _WIDEST, inbox[place + 9 : end])
            place = end
        self._inbox = inbox[place:]
        self._uncork()

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == _DATA:
            self._take_data(stream, body[1 : len(body) - body[0]] if flags & _PADDED else body, len(body))
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(body)
        elif kind == _WINDOW:
            self._take_window(stream, int.from_bytes(body, "big"))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, body))
        elif kind == _GOAWAY and self._transport is not None:
            self._transport.close()
        if kind == _RST or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._windows.pop(stream, None)
            self._partial.pop(stream, None)
            self._unacknowledged.pop(stream, None)
            self._caller.ended(stream, read_status(body) if kind == _HEADERS else "UNKNOWN")

    def _take_data(self, stream: int, body: bytes, consumed: int) -> None:
        before = self._partial.pop(stream, None)
        data = before + body if before else body
        place = 0
        while len(data) - place >= 5:
            end = place + 5 + int.from_bytes(data[place + 1 : place + 5], "big")
            if len(data) < end:
                break
            self._caller.answered(stream, data[place + 5 : end])
            place = end
        if place < len(data):
            self._partial[stream] = data[place:]
        self._refill(stream, consumed)

    def _refill(self, stream: int, consumed: int) -> None:
        """Let the server go on sending: windows are so wide that this is seldom."""
        for number in (0, stream):
            count = self._unacknowledged.get(number, 0) + consumed
            if count >= _REFILL:
                self._write(_frame(_WINDOW, 0, number, struct.pack(">I", count)))
                count = 0
            self._unacknowledged[number] = count

    def _take_settings(self, body: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", body):
            if key == _INITIAL_WINDOW:
                change, self._initial_window = value - self._initial_window, value
                self._windows = {stream: window + change for stream, window in self._windows.items()}
            elif key == _FRAME_SIZE:
                self._frame_bytes = value
            elif key == _STREAMS:
                self.streams = value
        self._write(_frame(_SETTINGS, _ACK, 0, b""))
        if not self.ready.done():
            self.ready.set_result(None)
        self._flush()

    def _take_window(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        elif stream in self._windows:
            self._windows[stream] += more
        self._flush()

    def _flush(self) -> None:
        """Send what waits, as far as the server's windows allow."""
        out: list[bytes | memoryview] = []
        while self._waiting:
            stream, data, last = self._waiting[0]
            if stream not in self._windows:  # it has ended
                self._waiting.popleft()
                continue
            size = min(len(data), self._window, self._windows[stream], self._frame_bytes)
            if size < len(data) and size <= 0:
                break
            done = size == len(data)
            out += [_frame_header(_DATA, _END_STREAM if last and done else 0, stream, size), data[:size]]
            self._window -= size
            self._windows[stream] -= size
            if done:
                self._waiting.popleft()
            else:
                self._waiting[0] = stream, data[size:], last
        if out:
            self._write(b"".join(out))

    def _write(self, data: bytes) -> None:
        if self._corked:
            self._corked_out.append(data)
        elif self._transport is not None:
            self._transport.write(data)

    def _uncork(self) -> None:
        out, self._corked_out, self._corked = self._corked_out, [], False
        if out:
            self._write(b"".join(out))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return _frame_header(kind, flags, stream, len(body)) + body


def _frame_header(kind: int, flags: int, stream: int, size: int) -> bytes:
    return _HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream)
