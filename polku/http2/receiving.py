"""What the frames of a peer mean: each is checked, counted against the limits, and handed on to its stream."""

from __future__ import annotations

import time
from typing import Any

from polku.http2 import control
from polku.http2 import frames as f
from polku.http2.frames import ErrorCode, PeerError, StreamError
from polku.http2.header_blocks import HeadCache, HeaderReader, is_allowed
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream
from polku.http2.streams import Streams

TOO_LARGE_BLOCK = "a header block of {} bytes and more, the limit is {}; send fewer or shorter fields"
_LARGEST_FRAME = 1 << 20  # bytes: more than that is not sent at once, whatever the peer allows
_SMALL_CREDIT = 64  # bytes: a WINDOW_UPDATE of less is no progress


class Receiving(Streams):
    """Keep the rules of RFC 9113 for what a peer sends; they raise `PeerError` where it breaks them.

    What differs for a client's end (`ClientConnection`) is in methods of their own; here they are the server's.
    """

    _reads_after_end = False  # whether what comes is read once our own end of a stream was sent

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(limits)
        self._headers = HeaderReader(list_bytes=limits.header_list, table_bytes=limits.header_table)
        self._heads = HeadCache(self._headers)
        self._is_settled = False
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and what has come of a header block
        self._block_began = 0.0
        self._fruitless = 0  # frames in a row that brought nothing
        self._ignored = 0  # bytes for streams that are closed, since the last one was opened

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
                self._goaway(payload)
            case f.PUSH_PROMISE:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which this end does not allow")
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
            reason = TOO_LARGE_BLOCK.format(len(block), self.limits.header_block)
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
        if not flags & f.END_STREAM or not all(is_allowed(*field) for field in fields):
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
                self._count_reset()
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
        if stream.local_ended and not self._reads_after_end:  # answered before its end: nobody reads the rest
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

    def _set(self, key: int, value: int) -> None:
        if key == f.INITIAL_WINDOW_SIZE:
            self._resize_windows(value)
        elif key == f.MAX_FRAME_SIZE:
            self._outbox.max_frame = min(value, _LARGEST_FRAME)

    def _settings(self, flags: int, number: int, payload: memoryview) -> None:
        values = control.read_settings(flags, number, payload)
        if values is None:
            self._headers.allow_table()
            self._no_progress()
            return
        self._is_settled = True
        self._no_progress()
        for key, value in values:
            self._set(key, value)
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
        self._no_progress()
        if not flags & f.ACK:
            self._count_control()
            self._outbox.put(f.frame(f.PING, f.ACK, 0, bytes(payload)))

    def _rst_stream(self, number: int, payload: memoryview) -> None:
        control.check_rst_stream(number, payload)
        stream = self.streams.get(number)
        if stream is not None:
            stream.reset_code = control.read_code(payload)
            self._forget(stream)
            self.lost(stream)
        elif number in self._taken:
            self._taken.discard(number)
            self._close_if_drained()
        else:
            self._require_known(number)
        self._count_reset()

    def _goaway(self, payload: memoryview) -> None:
        """A client that is leaving ends its streams itself (section 6.8)."""
        self._no_progress()

    def _require_known(self, number: int) -> None:
        """Fail for a frame on a stream that was never opened (section 5.1)."""
        if number == 0 or number > self._last or not number & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"a frame on stream {number}, which is idle")

    def _no_progress(self) -> None:
        self._fruitless += 1
        if self._fruitless > self.limits.empty_frames:
            reason = f"more than {self.limits.empty_frames} frames that bring nothing"
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, reason)
