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
from typing import Any

from polku.http2 import control
from polku.http2 import frames as f
from polku.http2.frames import ErrorCode, PeerError, StreamError
from polku.http2.header_blocks import HeadCache, HeaderReader
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream
from polku.http2.streams import Streams

_LARGEST_FRAME = 1 << 20  # bytes: more than that is not sent at once, whatever the peer allows
_SMALL_CREDIT = 64  # bytes: a WINDOW_UPDATE of less is no progress


class Connection(Streams, asyncio.Protocol):
    """Read frames, keep the rules of RFC 9113, and hand on requests."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(limits)
        self._headers = HeaderReader(list_bytes=limits.header_list, table_bytes=limits.header_table)
        self._heads = HeadCache(self._headers)
        self._began = self._touched
        self._tail = bytearray()  # a frame that has come in part
        self._needed = 0  # bytes of `_tail` from which on it is worth looking at
        self._is_settled = False
        self._is_negotiated = True
        self._partial: tuple[int, int, int] | None = None  # stream, flags and missing bytes of a DATA frame
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and what has come of a header block
        self._block_began = 0.0
        self._fruitless = 0  # frames in a row that brought nothing
        self._ignored = 0  # bytes for streams that are closed, since the last one was opened

    # The transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's preface: one of another protocol can still be told so."""
        self._outbox.transport = transport
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

    def _frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if not self._is_settled and kind != f.SETTINGS:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if self._block is not None and (kind != f.CONTINUATION or number != self._block[0]):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a frame within a header block")
        match kind:
            case f.DATA:
                self._data(number, flags, payload, final=True)
            case f.HEADERS:
                self._begin_block(number, flags, payload)
            case f.CONTINUATION:
                self._continue_block(number, flags, payload)
            case f.WINDOW_UPDATE:
                self._window_update(number, payload)
            case f.SETTINGS:
                self._settings(flags, number, payload)
            case f.PING:
                self._ping(flags, number, payload)
            case f.RST_STREAM:
                self._rst_stream(number, payload)
            case f.PRIORITY:
                control.check_priority(number, payload)
                self._no_progress()
            case f.GOAWAY:
                control.check_goaway(number, payload)
            case f.PUSH_PROMISE:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            case _:  # unknown types are ignored (section 4.1)
                self._no_progress()

    # Header blocks (sections 4.3, 6.2, 6.10 and 8.1).

    def _begin_block(self, number: int, flags: int, payload: memoryview) -> None:
        block = control.header_block(flags, number, payload)
        if flags & f.END_HEADERS:
            self._block_done(number, flags, bytes(block))
        else:
            self._block = number, flags, bytearray(block)
            self._block_began = time.monotonic()

    def _continue_block(self, number: int, flags: int, payload: memoryview) -> None:
        if self._block is None:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block")
        _, first_flags, block = self._block
        block += payload
        if len(block) > self.limits.header_block:
            reason = f"a header block of more than {self.limits.header_block} bytes"
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, reason)
        if flags & f.END_HEADERS:
            self._block = None
            self._block_done(number, first_flags, bytes(block))
        elif not payload:
            self._no_progress()

    def _block_done(self, number: int, flags: int, block: bytes) -> None:
        if number <= self._last:
            self._trailers(number, flags, block)
            return
        head = self._head_of(block, number)
        self._last = number
        if head is None:
            return
        stream = self._open(number, head)
        if stream is None:
            return
        self._fruitless = self._ignored = 0
        self.opened(stream)
        if flags & f.END_STREAM and number in self.streams:
            self._end_remote(stream)

    def _trailers(self, number: int, flags: int, block: bytes) -> None:
        """Read the fields that may end a request's body (section 8.1); they are decoded whatever becomes of them."""
        fields = self._headers.read(block)
        stream = self.streams.get(number)
        if stream is None or stream.remote_ended:
            raise PeerError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        if not flags & f.END_STREAM or any(name[:1] == b":" or name != name.lower() for name, _ in fields):
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            self._end_remote(stream)

    def _head_of(self, block: bytes, number: int) -> Any:
        """Return what a request's header block means; None: the stream is reset."""
        head = self._heads.get(block)
        if head is None:
            try:
                head = self._heads.read(block, self.read_head)
            except StreamError as error:
                self._last = number
                self._refuse(number, error.code)
        return head

    def _end_remote(self, stream: Stream) -> None:
        if stream.length > 0:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)  # less than content-length (section 8.1.1)
            return
        stream.remote_ended = True
        if not stream.local_ended:  # else the rest of its answer waits for a window
            self.ended(stream)

    # DATA (section 6.1) and its flow control (section 6.9).

    def _data(self, number: int, flags: int, payload: memoryview, *, final: bool) -> None:
        if not self._is_settled:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        size = len(payload)
        self._receive_window.received(size)
        self._touched = time.monotonic()
        if flags & f.PADDED:
            payload = control.without_padding(payload)
        stream = self.streams.get(number)
        if stream is None:
            self._require_known(number)
            self._receive_window.consumed(size)
            self._ignored += size
            if self._ignored > self.limits.connection_window:
                raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "DATA goes on for streams that are closed")
            if number not in self._reset:  # else it was sent before our RST_STREAM came
                self._refuse(number, ErrorCode.STREAM_CLOSED)
            return
        if stream.remote_ended:
            self._receive_window.consumed(size)
            self.reset(stream, ErrorCode.STREAM_CLOSED)
            return
        if not payload and final and not flags & f.END_STREAM:
            self._no_progress()
        self._take_data(stream, payload, size, ends=bool(flags & f.END_STREAM))

    def _take_data(self, stream: Stream, payload: memoryview, size: int, *, ends: bool) -> None:
        stream.unread += size
        if stream.unread + stream.consumed > self.limits.stream_window:
            self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR)
            return
        stream.touched = self._touched
        if stream.length >= 0:
            stream.length -= len(payload)
            if stream.length < 0:
                self.reset(stream, ErrorCode.PROTOCOL_ERROR)
                return
        padding = size - len(payload)
        if padding:
            self.consumed(stream, padding)
        if stream.local_ended:  # answered before its end: nobody reads the rest
            self.consumed(stream, len(payload))
        elif payload:
            self._fruitless = 0
            self.received(stream, payload)
        if ends and stream.number in self.streams:
            self._end_remote(stream)

    # The other frames.

    def _window_update(self, number: int, payload: memoryview) -> None:
        credit = control.read_credit(payload)
        if credit < _SMALL_CREDIT:
            self._no_progress()
        code = ErrorCode.FLOW_CONTROL_ERROR if credit else ErrorCode.PROTOCOL_ERROR
        if number == 0:
            self._outbox.window += credit
            if not credit or self._outbox.window > f.LARGEST_WINDOW:
                raise PeerError(code, f"WINDOW_UPDATE of {credit} bytes for the connection")
            self._outbox.pump_all()
            return
        stream = self._stream_of(number)
        if stream is None:
            self._require_known(number)
            return
        stream.window += credit
        if not credit or stream.window > f.LARGEST_WINDOW:
            self.reset(stream, code)
        elif stream.pending:
            self._outbox.pump(stream)

    def _settings(self, flags: int, number: int, payload: memoryview) -> None:
        values = control.read_settings(flags, number, payload)
        if values is None:
            self._headers.allow_table()
            return
        self._is_settled = True
        self._no_progress()
        for key, value in values:
            if key == f.INITIAL_WINDOW_SIZE:
                self._resize_windows(value)
            elif key == f.MAX_FRAME_SIZE:
                self._outbox.max_frame = min(value, _LARGEST_FRAME)
        self._count_control()
        self._outbox.put(f.frame(f.SETTINGS, f.ACK, 0))
        self._outbox.pump_all()

    def _resize_windows(self, value: int) -> None:
        """Change the windows of all streams; they may become negative (section 6.9.2)."""
        change, self._outbox.initial_window = value - self._outbox.initial_window, value
        for stream in self.streams.values():
            stream.window += change
            if stream.window > f.LARGEST_WINDOW:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window passes 2^31 - 1 bytes")

    def _ping(self, flags: int, number: int, payload: memoryview) -> None:
        control.check_ping(number, payload)
        if not flags & f.ACK:
            self._count_control()
            self._outbox.put(f.frame(f.PING, f.ACK, 0, bytes(payload)))

    def _rst_stream(self, number: int, payload: memoryview) -> None:
        control.check_rst_stream(number, payload)
        stream = self.streams.get(number)
        if stream is not None:
            self._forget(stream)
            self.lost(stream)
        elif number in self._taken:
            self._taken.discard(number)
            self._close_if_drained()
        else:
            self._require_known(number)
        self._resets += 1
        if self._resets > self.limits.resets:
            reason = f"more than {self.limits.resets} streams were reset; let calls come to their end"
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, reason)

    def _require_known(self, number: int) -> None:
        """Fail for a frame on a stream that was never opened (section 5.1)."""
        if number == 0 or number > self._last or not number & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"a frame on stream {number}, which is idle")

    def _no_progress(self) -> None:
        self._fruitless += 1
        if self._fruitless > self.limits.empty_frames:
            reason = f"more than {self.limits.empty_frames} frames that bring nothing"
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, reason)

    def check_times(self, now: float) -> None:
        """Enforce the limits of time; to be called about once a second."""
        limits = self.limits
        if self.is_closed:
            if now - self._touched > limits.close_seconds:  # the peer does not read what was written last
                self.abort()
        elif not self._is_settled and now - self._began > limits.preface_seconds:
            self.fail(ErrorCode.SETTINGS_TIMEOUT, f"no preface and SETTINGS within {limits.preface_seconds:g} s")
        elif self._block is not None and now - self._block_began > limits.header_seconds:
            self.fail(ErrorCode.ENHANCE_YOUR_CALM, f"a header block takes more than {limits.header_seconds:g} s")
        elif not self.open_streams and limits.idle_seconds and now - self._touched > limits.idle_seconds:
            self.refuse_new()
