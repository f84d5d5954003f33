"""The server's end of an HTTP/2 connection, as an asyncio protocol without any application in it.

What one read brought is handled frame by frame; what that causes is collected and leaves in one write. Answers may also
come later: then they leave at the end of that turn of the event loop. A subclass says what requests are and answers
them (`read_head` to `reading_done`).

Flow control (section 5.2): the peer may have `limits.connection_window` bytes in flight that the application has not
consumed. Our DATA waits in its stream while there is no window, or while the socket's buffer is full.
"""

from __future__ import annotations

import asyncio
import time

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode, PeerError
from polku.http2.limits import ConnectionLimits
from polku.http2.receiving import Receiving

_KEEPALIVE = b"polku:ka"  # what our PINGs carry


class Connection(Receiving, asyncio.Protocol):
    """Read frames, keep the rules of RFC 9113, and hand on requests."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(limits)
        self._began = self._touched
        self._tail = bytearray()  # a frame that has come in part
        self._needed = 0  # bytes of `_tail` from which on it is worth looking at
        self._is_negotiated = True
        self._was_heard = False  # something came since the last look at the times
        self._silent_since = self._began
        self._pinged: float | None = None  # when we asked a silent peer for a sign of life
        self._partial: tuple[int, int, int] | None = None  # stream, flags and missing bytes of a DATA frame

    # The transport.

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

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the streams."""
        self.is_closed = True
        streams = list(self.streams.values())
        self.streams.clear()
        self._taken.clear()
        self._outbox.drop()
        for stream in streams:
            stream.local_ended = stream.remote_ended = True
            self.closed(stream)
            self.lost(stream)

    def pause_writing(self) -> None:
        """Hold DATA back: the socket's buffer is full."""
        self._outbox.is_paused = True

    def resume_writing(self) -> None:
        """Send what was held back."""
        self._outbox.is_paused = False
        self._control = 0
        self._outbox.pump_all()

    def data_received(self, data: bytes) -> None:
        """Handle what one read brought."""
        if self.is_closed:
            return
        self._was_heard = True
        if self._tail:
            self._tail += data
            if len(self._tail) < self._needed:
                return
            data = bytes(self._tail)
            self._tail.clear()
        self._outbox.is_reading = True
        try:
            at = self._read(data)
            if at < len(data):
                self._tail += memoryview(data)[at:]
            self.reading_done()
            self._credit_connection()
        except PeerError as fault:
            self.fail(fault.code, str(fault))
        finally:
            self._outbox.is_reading = False
            self._outbox.flush()

    def eof_received(self) -> None:
        """Close: HTTP/2 knows no half-closed connections."""

    # Reading.

    def _read(self, data: bytes) -> int:
        """Handle the frames of what has come; return where the first incomplete one begins."""
        at, end = 0, len(data)
        view = memoryview(data)
        if not self._is_greeted:
            at = self._greet(data)
            if not at:
                return 0
        if self._partial is not None:
            at += self._go_on_with_data(view, at)
        limits = self.limits
        read_head = f.read_head
        while end - at >= f.HEAD_BYTES:
            high, low, kind, flags, number = read_head(data, at)
            start = at + f.HEAD_BYTES
            stop = start + (high << 8 | low)
            number &= f.STREAM_BITS
            if stop > end or stop - start > limits.header_block:
                if self._is_too_large(kind, stop - start):
                    raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {stop - start} bytes")
                if stop > end:
                    if kind == f.DATA and not flags & f.PADDED and self._is_settled and self._block is None:
                        self._partial = number, flags, stop - end
                        self._data(number, 0, view[start:end], final=False)
                        return end
                    self._needed = stop - at
                    return at
            if kind == f.HEADERS and flags == f.END_HEADERS and number > self._last and self._is_settled:
                used = self._whole_request(data, number, start, stop, end)
                if used:
                    at = used
                    continue
            self._frame(kind, flags, number, view[start:stop])
            at = stop
        self._needed = f.HEAD_BYTES
        return at

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

    def _is_too_large(self, kind: int, size: int) -> bool:
        return size > (self.limits.frame if kind == f.DATA else self.limits.header_block)

    def _go_on_with_data(self, view: memoryview, at: int) -> int:
        assert self._partial is not None
        number, flags, missing = self._partial
        size = min(missing, len(view) - at)
        is_last = size == missing
        self._partial = None if is_last else (number, flags, missing - size)
        self._data(number, flags if is_last else 0, view[at : at + size], final=is_last)
        return size

    def _whole_request(self, data: bytes, number: int, start: int, stop: int, end: int) -> int:
        """Take HEADERS and the DATA behind it where that is all of a request; return where it ends, 0: it is not."""
        if end - stop < f.HEAD_BYTES or not number & 1 or self._block is not None or self._draining:
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
        else:
            self._ask_if_silent(now)

    def _ask_if_silent(self, now: float) -> None:
        """Send a PING to a peer that says nothing, and close where that stays so (section 6.7).

        A peer whose machine or network is gone is never heard of again: TCP alone would find out after hours.
        """
        if self._was_heard:
            self._was_heard, self._silent_since, self._pinged = False, now, None
        elif self._pinged is not None:
            if now - self._pinged > self.limits.keepalive_timeout_seconds:
                reason = f"no answer to a PING within {self.limits.keepalive_timeout_seconds:g} s"
                self.fail(ErrorCode.NO_ERROR, reason)
        elif now - self._silent_since > self.limits.keepalive_seconds:
            self._pinged = now
            self._outbox.put(f.frame(f.PING, 0, 0, _KEEPALIVE))
