"""One end of an HTTP/2 connection as an asyncio protocol: what the server's end and the client's share.

What one read brought is handled frame by frame; what that causes is collected and leaves in one write. Answers may also
come later: then they leave at the end of that turn of the event loop.
"""

from __future__ import annotations

import asyncio

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode, PeerError
from polku.http2.limits import ConnectionLimits
from polku.http2.receiving import TOO_LARGE_BLOCK, Receiving

_KEEPALIVE = b"polku:ka"  # what our PINGs carry


class Endpoint(Receiving, asyncio.Protocol):
    """Cut what comes into frames, hand them on, and write what they cause."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(limits)
        self._tail = bytearray()  # a frame that has come in part
        self._needed = 0  # bytes of `_tail` from which on it is worth looking at
        self._was_heard = False  # something came since the last look at the times
        self._silent_since = self._touched
        self._pinged: float | None = None  # when we asked a silent peer for a sign of life
        self._partial: tuple[int, int, int] | None = None  # stream, flags and missing bytes of a DATA frame

    # The transport.

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
                    raise PeerError(ErrorCode.FRAME_SIZE_ERROR, self._too_large(kind, stop - start))
                if stop > end:
                    if kind == f.DATA and not flags & f.PADDED and self._is_settled and self._block is None:
                        self._partial = number, flags, stop - end
                        self._data(number, 0, view[start:end], final=False)
                        return end
                    self._needed = stop - at
                    return at
            if kind == f.HEADERS and flags == f.END_HEADERS and self._is_settled:
                used = self._whole_message(data, number, start, stop, end)
                if used:
                    at = used
                    continue
            self._frame(kind, flags, number, view[start:stop])
            at = stop
        self._needed = f.HEAD_BYTES
        return at

    def _is_too_large(self, kind: int, size: int) -> bool:
        return size > (self.limits.frame if kind == f.DATA else self.limits.header_block)

    def _too_large(self, kind: int, size: int) -> str:
        if kind in (f.HEADERS, f.CONTINUATION):
            return TOO_LARGE_BLOCK.format(size, self.limits.header_block)
        limit = self.limits.frame if kind == f.DATA else self.limits.header_block
        return f"a frame of {size} bytes, the limit is {limit}"

    def _go_on_with_data(self, view: memoryview, at: int) -> int:
        assert self._partial is not None
        number, flags, missing = self._partial
        size = min(missing, len(view) - at)
        is_last = size == missing
        self._partial = None if is_last else (number, flags, missing - size)
        self._data(number, flags if is_last else 0, view[at : at + size], final=is_last)
        return size

    def _greet(self, data: bytes) -> int:
        """Read what comes before the first frame; return where that begins, 0: not all of it is there."""
        raise NotImplementedError

    def _whole_message(self, data: bytes, number: int, start: int, stop: int, end: int) -> int:
        """Take HEADERS (`start` to `stop`) and what follows, where that is all of a request, or of an answer.

        Return where it ends; 0: it is not, and is read frame by frame.
        """
        return 0

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
