"""The open streams of one connection: what is answered on them, the credit that their peer gets, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

from polku.http2 import frames as f
from polku.http2.application import Application
from polku.http2.frames import ErrorCode
from polku.http2.limits import ConnectionLimits
from polku.http2.outbox import Outbox
from polku.http2.receive_window import ReceiveWindow
from polku.http2.stream import Stream

_REMEMBERED_RESETS = 100


class Streams(Application):
    """Keep the streams of a connection, and send what answers them."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.is_closed = False
        self._taken: set[int] = set()  # requests that `requested` took and that have no answer yet
        self._last = 0  # the highest stream that the peer has opened
        self._is_greeted = False  # the peer speaks HTTP/2
        self._draining = False
        self._touched = time.monotonic()
        self._receive_window = ReceiveWindow(limits.connection_window)
        self._outbox = Outbox(self._finished, self.drained)
        self._control = 0  # answers to control frames since the socket's buffer is full
        self._resets = 0  # streams that were reset, less those that came to their end
        self._reset: deque[int] = deque(maxlen=_REMEMBERED_RESETS)  # streams that we have reset

    @property
    def open_streams(self) -> int:
        """How many requests have no answer yet."""
        return len(self.streams) + len(self._taken)

    @property
    def may_send(self) -> bool:
        """Whether the peer has credit for a frame of usual size."""
        return self._receive_window.room >= f.SMALLEST_MAX_FRAME

    def answer(self, number: int, head: bytes, body: bytes, trailers: bytes) -> None:
        """Answer a request that was taken by `requested`: header block, body, trailers; it may be gone by now."""
        if number in self._taken and self._outbox.put_whole(number, head, body, trailers):
            self._taken.discard(number)
            self._resets = max(0, self._resets - 1)
            self._close_if_drained()
            return
        stream = self._stream_of(number)
        if stream is not None:
            self.send_headers(stream, head)
            self.send(stream, body)
            self.end(stream, trailers)

    def answer_without_body(self, number: int, trailers: bytes) -> None:
        """Answer a request that was taken by `requested` with a header block alone; it may be gone by now."""
        stream = self._stream_of(number)
        if stream is not None:
            self.end(stream, trailers)

    def _stream_of(self, number: int) -> Stream | None:
        """Return an open stream; one of a request that was taken has none until it is needed."""
        if number in self._taken:
            self._taken.discard(number)
            stream = self.streams[number] = Stream(number, None, self._outbox.initial_window, self._touched)
            stream.remote_ended = True
        return self.streams.get(number)

    def send_headers(self, stream: Stream, block: bytes) -> None:
        """Send the header block that begins an answer."""
        if not stream.local_ended:
            self._outbox.put_headers(stream.number, block)

    def send(self, stream: Stream, data: bytes) -> None:
        """Send a part of an answer's body, now or when there is a window."""
        if not stream.local_ended:
            self._outbox.send(stream, data)
            if self._outbox.unsent > self.limits.unsent:
                self.fail(ErrorCode.ENHANCE_YOUR_CALM, f"{self._outbox.unsent} bytes of answers wait to be read")

    def end(self, stream: Stream, trailers: bytes | None = None) -> None:
        """End an answer, with trailers or without, behind what still waits."""
        if not stream.local_ended:
            stream.local_ended = True
            self._outbox.end(stream, trailers)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Close a stream at once: the peer has broken a rule on it."""
        self._refuse(stream.number, code)
        self._forget(stream)
        self.lost(stream)
        self._count_reset()

    def fail(self, code: ErrorCode, reason: str) -> None:
        """Tell the peer why, and close the connection."""
        if not self.is_closed:
            if self._is_greeted:
                self._outbox.put(f.goaway(self._last, code, reason))
            self._end()

    def drain(self) -> None:
        """Ask the peer to open no more streams (section 6.8); those that are open come to their end.

        A first GOAWAY without a last stream lets those come that the peer has sent already; `refuse_new` ends that.
        """
        if not self.is_closed and self._is_greeted:
            self._outbox.put(f.goaway(f.STREAM_BITS, ErrorCode.NO_ERROR))

    def refuse_new(self) -> None:
        """Refuse what is opened from now on, and close the connection once no stream is open."""
        if not self.is_closed and not self._draining:
            self._draining = True
            if self._is_greeted:
                self._outbox.put(f.goaway(self._last, ErrorCode.NO_ERROR))
            self._close_if_drained()

    def abort(self) -> None:
        """Close at once, without a word more."""
        self.is_closed = True
        self._outbox.transport.abort()

    def consumed(self, stream: Stream, size: int) -> None:
        """Give the peer credit for bytes of a stream that the application is done with."""
        size = min(size, stream.unread)
        stream.unread -= size
        self._receive_window.consumed(size)
        if not stream.remote_ended:
            stream.consumed += size
            if stream.consumed >= self.limits.stream_window >> 2:
                self._outbox.put(f.window_update(stream.number, stream.consumed))
                stream.consumed = 0
        if not self._outbox.is_reading:
            self._credit_connection()

    def _credit_connection(self) -> None:
        credit = self._receive_window.credit()
        if credit:
            self._outbox.put(f.window_update(0, credit))

    def _open(self, number: int, head: Any) -> Stream | None:
        if self.open_streams >= self.limits.streams or self._draining:
            self._refuse(number, ErrorCode.REFUSED_STREAM)  # the client may try again (section 8.7)
            return None
        self._touched = now = time.monotonic()
        stream = self.streams[number] = Stream(number, head, self._outbox.initial_window, now)
        stream.length = getattr(head, "length", -1)
        return stream

    def _refuse(self, number: int, code: ErrorCode) -> None:
        self._reset.append(number)
        self._count_control()
        self._outbox.put(f.rst_stream(number, code))

    def _count_control(self) -> None:
        """Count what is sent because the peer asked for it, while it does not read."""
        self._control = self._control + 1 if self._outbox.is_paused else 0
        if self._control > self.limits.control_frames:
            self.fail(ErrorCode.ENHANCE_YOUR_CALM, "the answers to what this asks for are not read")

    def _count_reset(self) -> None:
        """Count a stream that the peer has reset, or made us reset: its call may still cost us work."""
        self._resets += 1
        if self._resets > self.limits.resets:
            reason = f"more than {self.limits.resets} streams were reset; let calls come to their end"
            self.fail(ErrorCode.ENHANCE_YOUR_CALM, reason)

    def _finished(self, stream: Stream) -> None:
        self._resets = max(0, self._resets - 1)
        if not stream.remote_ended:  # the answer needs no more of the request (section 8.1)
            self._reset.append(stream.number)
            self._outbox.put(f.rst_stream(stream.number, ErrorCode.NO_ERROR))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.local_ended = stream.remote_ended = True
        self._receive_window.consumed(stream.unread)
        stream.unread = 0
        self._outbox.forget(stream)
        self.streams.pop(stream.number, None)
        self.closed(stream)
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._draining and not self.open_streams and not self.is_closed:
            self._end()

    def _end(self) -> None:
        """Write what is there, and close; `connection_lost` tells the streams.

        A socket that is closed with bytes unread resets the connection, and a client that still sends would not learn
        why: what comes for `linger_seconds` more is read and dropped. (asyncio's TLS does so by itself.)
        """
        self._touched = time.monotonic()
        self.is_closed = True
        self._outbox.close()
        transport = self._outbox.transport
        if transport.can_write_eof():
            with contextlib.suppress(OSError):  # the peer may be gone by now
                transport.write_eof()
            asyncio.get_running_loop().call_later(self.limits.linger_seconds, transport.close)
        else:
            transport.close()
