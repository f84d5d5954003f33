"""The client's end of an HTTP/2 connection, without any application in it.

A subclass opens streams (`request`), sends on them (`send`, `end`, `cancel`), and hears what comes (`responded` to
`leaving`). Server push is not allowed; of the peer's limits the number of streams is for the subclass to keep.
"""

from __future__ import annotations

import asyncio
import time

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

    def responded(self, stream: Stream, fields: list[Field]) -> None:
        """Take the fields that begin an answer, with its final status."""
        raise NotImplementedError

    def finished(self, stream: Stream, trailers: list[Field]) -> None:
        """The answer has come to its end; without trailers the list is empty."""
        raise NotImplementedError

    def leaving(self, code: int, reason: str) -> None:
        """The peer takes no new streams (GOAWAY); those that it will not work on are `lost` next."""

    # What it calls.

    @property
    def may_open(self) -> bool:
        """Whether the peer takes one more stream, as far as is known."""
        return not self.is_closed and not self._draining and len(self.streams) < self.peer_streams

    def request(self, block: bytes) -> Stream:
        """Open a stream with the header block of a request; its body follows by `send` and `end`."""
        number, self._next = self._next, self._next + 2
        self._last = number
        stream = self.streams[number] = Stream(number, None, self._outbox.initial_window, self._touched)
        self._outbox.put_headers(number, block)
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

    def _block_done(self, number: int, flags: int, block: bytes) -> None:
        fields = self._headers.read(block)
        self._require_known(number)
        stream = self.streams.get(number)
        if stream is None:
            if number not in self._reset:
                raise PeerError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
            return
        self._touched = time.monotonic()
        ends = bool(flags & f.END_STREAM)
        if stream.head is None:
            status = dict(fields).get(b":status", b"")
            if len(status) != 3 or not status.isdigit() or (ends and status.startswith(_INFORMATIONAL)):
                self.reset(stream, ErrorCode.PROTOCOL_ERROR)
                return
            if status.startswith(_INFORMATIONAL):  # an interim answer (section 8.1)
                self._no_progress()
                return
            stream.head = fields
            self._fruitless = 0
            self.responded(stream, fields)
            fields = []
        elif not ends:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
            return
        if ends and number in self.streams:
            self._finish_remote(stream, fields)

    def _data(self, number: int, flags: int, payload: memoryview, *, final: bool) -> None:
        stream = self.streams.get(number)
        if stream is not None and stream.head is None:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "DATA before the HEADERS of an answer")
        super()._data(number, flags, payload, final=final)

    def _end_remote(self, stream: Stream) -> None:
        self._finish_remote(stream, [])

    def _finish_remote(self, stream: Stream, trailers: list[Field]) -> None:
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
