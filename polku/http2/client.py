"""The client's end of an HTTP/2 connection, without any application in it.

A subclass opens streams (`request`), sends on them (`send`, `end`, `cancel`), and hears what comes (`responded` to
`leaving`). Server push is not allowed; of the peer's limits the number of streams is for the subclass to keep.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from polku.http2 import control
from polku.http2 import frames as f
from polku.http2.endpoint import Endpoint
from polku.http2.frames import ErrorCode, PeerError
from polku.http2.header_blocks import Field
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream

_INFORMATIONAL = b"1"


class ClientConnection(Endpoint):
    """Open streams, and hand on what answers them."""

    _reads_after_end = True

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(limits)
        self._next = 1
        self.peer_streams = f.LARGEST_WINDOW  # the peer's SETTINGS_MAX_CONCURRENT_STREAMS

    # What a subclass is told.

    def meaning(self, fields: list[Field]) -> Any:
        """Return what the fields of an answer's head, or of its trailers, mean.

        What it returns is used again for the same header block. Its attribute `http` is the `:status`, empty without
        one.
        """
        raise NotImplementedError

    def responded(self, stream: Stream) -> None:
        """An answer has begun, with its final status; its head is `stream.head`."""
        raise NotImplementedError

    def finished(self, stream: Stream, trailers: Any) -> None:
        """The answer has come to its end; without trailers they are None."""
        raise NotImplementedError

    def answered(self, stream: Stream, head: Any, body: bytes, trailers: Any) -> bool:
        """Take an answer that came whole in one read; return whether it is taken: then nothing more is heard of it.

        Where it is not, it comes again by `responded`, `received` and `finished`.
        """
        return False

    def leaving(self, code: int, reason: str) -> None:
        """The peer takes no new streams (GOAWAY); those that it will not work on are `lost` next."""

    # What it calls.

    @property
    def may_open(self) -> bool:
        """Whether the peer takes one more stream, as far as is known."""
        return not self.is_closed and not self._draining and len(self.streams) < self.peer_streams

    @property
    def is_draining(self) -> bool:
        """Whether the connection is open for the streams that it has, and takes no new ones (GOAWAY)."""
        return self._draining and not self.is_closed

    def request(self, block: bytes) -> Stream:
        """Open a stream with the header block of a request; its body follows by `send` and `end`."""
        number, self._next = self._next, self._next + 2
        self._last = number
        stream = self.streams[number] = Stream(number, None, self._outbox.initial_window, self._touched)
        self._outbox.put_headers(number, block)
        return stream

    def request_whole(self, block: bytes, body: bytes) -> Stream:
        """Open a stream with a request that is complete: a header block and a body."""
        number = self._next
        if not self._outbox.put_whole(number, block, body):
            stream = self.request(block)
            self.send(stream, body)
            self.end(stream)
            return stream
        self._last, self._next = number, number + 2
        stream = self.streams[number] = Stream(number, None, self._outbox.initial_window - len(body), self._touched)
        stream.local_ended = True
        return stream

    def send(self, stream: Stream, data: bytes) -> None:
        """Send a part of a request's body, now or when there is a window: `unsent` says how much waits."""
        if not stream.local_ended:
            self._outbox.send(stream, data)

    @property
    def unsent(self) -> int:
        """The bytes of bodies that wait for a window, or for the socket."""
        return self._outbox.unsent

    def cancel(self, stream: Stream) -> None:
        """End a stream that nobody wants any more."""
        if stream.number in self.streams:
            self._refuse(stream.number, ErrorCode.CANCEL)
            self._forget(stream)

    # The transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the client's preface (section 3.4)."""
        self._outbox.transport = transport
        self._touched = self._silent_since = time.monotonic()
        self._is_greeted = True
        limits = self.limits
        values = {
            f.HEADER_TABLE_SIZE: limits.header_table,
            f.ENABLE_PUSH: 0,
            f.INITIAL_WINDOW_SIZE: limits.stream_window,
            f.MAX_FRAME_SIZE: limits.frame,
            f.MAX_HEADER_LIST_SIZE: limits.header_list,
        }
        self._outbox.put(f.PREFACE + f.settings(values))
        self._outbox.put(f.window_update(0, limits.connection_window - f.INITIAL_WINDOW))

    def eof_received(self) -> None:
        """Close: the server has gone."""

    # What comes.

    def _whole_message(self, data: bytes, number: int, start: int, stop: int, end: int) -> int:
        """Take HEADERS, DATA and the trailers where that is all of an answer to a complete request."""
        stream = self.streams.get(number)
        if stream is None or stream.head is not None or not stream.local_ended or stream.pending:
            return 0
        body = stop + f.HEAD_BYTES
        if end < body or self._block is not None:
            return 0
        high, low, kind, flags, other = f.read_head(data, stop)
        after = body + (high << 8 | low)
        last = after + f.HEAD_BYTES
        if kind != f.DATA or flags or other != number or last > end:
            return 0
        high, low, kind, flags, other = f.read_head(data, after)
        done: int = last + (high << 8 | low)
        if kind != f.HEADERS or flags != f.END_HEADERS | f.END_STREAM or other != number or done > end:
            return 0
        size = after - body
        head, trailers = self._heads.get(data[start:stop]), self._heads.get(data[last:done])
        if head is None or trailers is None or size > min(self._receive_window.room, self.limits.stream_window):
            return 0
        if not self.answered(stream, head, data[body:after], trailers):
            return 0
        self._receive_window.received(size)
        self._receive_window.consumed(size)
        self._touched = time.monotonic()
        self._fruitless = self._ignored = 0
        stream.remote_ended = True
        self.streams.pop(number, None)
        self.closed(stream)
        self._close_if_drained()
        return done

    def _block_done(self, number: int, flags: int, block: bytes) -> None:
        head = self._heads.get(block)
        if head is None:
            head = self._heads.read(block, self.meaning)
        self._require_known(number)
        stream = self.streams.get(number)
        if stream is None:
            if number not in self._reset:
                raise PeerError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
            return
        self._touched = time.monotonic()
        ends = bool(flags & f.END_STREAM)
        trailers = None
        if stream.head is None:
            status = head.http
            if len(status) != 3 or not status.isdigit() or (ends and status.startswith(_INFORMATIONAL)):
                self.reset(stream, ErrorCode.PROTOCOL_ERROR)
                return
            if status.startswith(_INFORMATIONAL):  # an interim answer (section 8.1)
                self._no_progress()
                return
            stream.head = head
            self._fruitless = 0
            self.responded(stream)
        elif not ends or head.http:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
            return
        else:
            trailers = head
        if ends and number in self.streams:
            self._finish_remote(stream, trailers)

    def _data(self, number: int, flags: int, payload: memoryview, *, final: bool) -> None:
        stream = self.streams.get(number)
        if stream is not None and stream.head is None:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "DATA before the HEADERS of an answer")
        super()._data(number, flags, payload, final=final)

    def _end_remote(self, stream: Stream) -> None:
        self._finish_remote(stream, None)

    def _finish_remote(self, stream: Stream, trailers: Any) -> None:
        stream.remote_ended = True
        self.finished(stream, trailers)
        if stream.number in self.streams:
            if stream.local_ended and not stream.pending:
                self._forget(stream)
            else:  # answered before its request was complete (section 8.1)
                self.cancel(stream)

    def _finished(self, stream: Stream) -> None:
        if stream.remote_ended:
            self._forget(stream)

    def _set(self, key: int, value: int) -> None:
        if key == f.MAX_CONCURRENT_STREAMS:
            self.peer_streams = value
        else:
            super()._set(key, value)

    def _goaway(self, payload: memoryview) -> None:
        last, code = control.read_last(payload), control.read_code(payload, 4)
        reason = bytes(payload[8:]).decode("utf-8", "replace")
        self._draining = True
        self.leaving(code, reason)
        for stream in [stream for stream in self.streams.values() if stream.number > last]:
            stream.reset_code = ErrorCode.REFUSED_STREAM
            self._forget(stream)
            self.lost(stream)
        self._close_if_drained()
