"""The server's end of an HTTP/2 connection, without any application in it.

A subclass says what requests are and answers them (`read_head` to `reading_done`).

Flow control (section 5.2): the peer may have `limits.connection_window` bytes in flight that the application has not
consumed. Our DATA waits in its stream while there is no window, or while the socket's buffer is full.
"""

from __future__ import annotations

import asyncio
import random
import time

from polku.http2 import frames as f
from polku.http2.endpoint import Endpoint
from polku.http2.frames import ErrorCode, PeerError
from polku.http2.limits import ConnectionLimits

_LAST_CALLS_SECONDS = 1.0  # for calls that were on their way when the peer was asked to open no more
_TOO_OLD = "the connection has reached its age"
_REPLACED = "the port was opened again"


class Connection(Endpoint):
    """Keep the rules of RFC 9113, and hand on requests."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(limits)
        self._began = self._touched
        self._is_negotiated = True
        self._age = limits.age_seconds * random.uniform(0.9, 1.1)
        self._leaves = ""  # why the peer is to leave
        self._retired: float | None = None  # when the peer was asked to leave for its age

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's preface: one of another protocol can still be told so."""
        self._outbox.transport = transport
        self._began = self._touched = self._silent_since = time.monotonic()  # a TLS handshake has its own time
        tls = transport.get_extra_info("ssl_object")
        self._is_negotiated = tls is None or tls.selected_alpn_protocol() == "h2"

    def _greet_back(self) -> None:
        """Send our SETTINGS, which is the server's preface (section 3.4)."""
        limits = self.limits
        values = {
            f.HEADER_TABLE_SIZE: limits.header_table,
            f.MAX_CONCURRENT_STREAMS: limits.streams,
            f.INITIAL_WINDOW_SIZE: limits.stream_window,
            f.MAX_FRAME_SIZE: limits.frame,
            f.MAX_HEADER_LIST_SIZE: limits.header_list,
        }
        self._outbox.put(f.settings(values))
        self._outbox.put(f.window_update(0, limits.connection_window - f.INITIAL_WINDOW))

    def turn_away(self, reason: str) -> None:
        """End a connection that has only begun, with a GOAWAY that names the limit."""
        self._is_greeted = True
        self._greet_back()
        self.fail(ErrorCode.ENHANCE_YOUR_CALM, reason)

    @property
    def idle_since(self) -> float | None:
        """When the peer last sent something, by the monotonic clock; None while a request has no answer."""
        return None if self.open_streams else self._touched

    def make_room(self, reason: str) -> None:
        """End an idle connection, since another one needs its place: the peer opens it again when it needs it."""
        self.fail(ErrorCode.NO_ERROR, reason)

    def _greet(self, data: bytes) -> int:
        if not data.startswith(f.PREFACE[: len(data)]):
            answer = self.greeting_failed(data)
            if answer is None:
                self._needed = len(data) + 1
                return 0
            if answer:
                self._outbox.put(answer)
                self._end()
                return len(data)
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < len(f.PREFACE):
            self._needed = len(f.PREFACE)
            return 0
        self._is_greeted = True
        self._greet_back()
        if not self._is_negotiated:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "HTTP/2 over TLS needs ALPN with h2 (RFC 9113, section 3.3)")
        return len(f.PREFACE)

    def _whole_message(self, data: bytes, number: int, start: int, stop: int, end: int) -> int:
        """Take HEADERS and the DATA behind it where that is all of a request."""
        if number <= self._last or end - stop < f.HEAD_BYTES or not number & 1:
            return 0
        if self._block is not None or self._draining:
            return 0
        high, low, kind, flags, other = f.read_head(data, stop)
        body = stop + f.HEAD_BYTES
        after: int = body + (high << 8 | low)
        if kind != f.DATA or flags != f.END_STREAM or other != number or after > end:
            return 0
        size = after - body
        if size > self.limits.frame or self.open_streams >= self.limits.streams:
            return 0
        head = self._head_of(data[start:stop], number)
        self._receive_window.received(size)
        self._touched = time.monotonic()
        if head is None:  # it was reset
            self._receive_window.consumed(size)
            return after
        self._last = number
        self._fruitless = self._ignored = 0
        self._taken.add(number)
        if self.requested(number, head, data[body:after]):
            self._receive_window.consumed(size)
            return after
        self._taken.discard(number)
        stream = self._open(number, head)
        if stream is None:
            self._receive_window.consumed(size)
            return after
        self.opened(stream)
        self._take_data(stream, memoryview(data)[body:after], size, ends=True)
        return after

    def check_times(self, now: float) -> None:
        """Enforce the limits of time; to be called about once a second."""
        limits = self.limits
        self._fruitless = max(0, self._fruitless - limits.empty_frames_second)
        if self.is_closed:
            if now - self._touched > limits.close_seconds:  # the peer does not read what was written last
                self.abort()
        elif not self._is_settled and now - self._began > limits.preface_seconds:
            self.fail(ErrorCode.SETTINGS_TIMEOUT, f"no preface and SETTINGS within {limits.preface_seconds:g} s")
        elif self._block is not None and now - self._block_began > limits.header_seconds:
            self.fail(ErrorCode.ENHANCE_YOUR_CALM, f"a header block takes more than {limits.header_seconds:g} s")
        elif not self.open_streams and limits.idle_seconds and now - self._touched > limits.idle_seconds:
            self.refuse_new()
        elif self._leaves or (self._age and now - self._began > self._age):
            self._retire(now, self._leaves or _TOO_OLD)
        else:
            self._ask_if_silent(now)

    @property
    def is_leaving(self) -> bool:
        """Whether the peer was asked to go on with another connection."""
        return bool(self._leaves) or self._draining or self.is_closed

    def leave(self, why: str = _REPLACED) -> None:
        """Have the peer go on with another connection; `check_times` sees to it."""
        self._leaves = self._leaves or why

    def _retire(self, now: float, why: str) -> None:
        """Ask the peer to go on with another connection, and end this one (section 6.8)."""
        if self._retired is None:
            self._retired = now
            self.drain()
        elif now - self._retired > self.limits.age_grace_seconds:
            self.fail(ErrorCode.NO_ERROR, f"{why}; it had {self.limits.age_grace_seconds:g} s to end its calls")
        elif not self._draining and now - self._retired > _LAST_CALLS_SECONDS:
            self.refuse_new()
            self.retiring(f"{why}; open another connection")
