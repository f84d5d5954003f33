"""The client's end of gRPC: calls on one connection, whose messages and end are heard by a `Listener`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from polku.http2.client import ClientConnection
from polku.http2.frames import ErrorCode
from polku.http2.header_blocks import Field, literal
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream
from polku.rpc.messages import MessageReader, write_prefix
from polku.rpc.status import CallError, Status, StatusCode, percent_decoded
from polku.text import line, said
from polku.version import __version__

_MESSAGE_BYTES = 64 << 20  # of an answer
_REASON = 1_000  # characters of what a server says about the end of a call
_RESET = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}
_HTTP = {  # http-grpc-status-mapping.md of gRPC
    b"400": StatusCode.INTERNAL,
    b"401": StatusCode.UNAUTHENTICATED,
    b"403": StatusCode.PERMISSION_DENIED,
    b"404": StatusCode.UNIMPLEMENTED,
    b"429": StatusCode.UNAVAILABLE,
    b"502": StatusCode.UNAVAILABLE,
    b"503": StatusCode.UNAVAILABLE,
    b"504": StatusCode.UNAVAILABLE,
}


class Listener(Protocol):
    """What hears of a call, within the event loop's turn in which it comes; none of these may raise."""

    def answered(self, message: bytes) -> None:
        """Take one message."""
        ...

    def ended(self, status: Status) -> None:
        """Learn that the call is over; nothing comes after that."""
        ...

    def leaving(self, reason: str) -> None:
        """The server asks to end the call and to go on with another connection (GOAWAY)."""
        ...


class _App(NamedTuple):
    listener: Listener
    reader: MessageReader
    room: list[asyncio.Future[None]]


class GrpcClientConnection(ClientConnection):
    """One connection to a server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(limits)
        self._reason = ""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, block: bytes, listener: Listener) -> Stream:
        """Begin a call; `block` is that of `request_head`."""
        stream = self.request(block)
        stream.app = _App(listener, MessageReader(_MESSAGE_BYTES), [])
        return stream

    async def write(self, stream: Stream, pieces: Iterable[bytes]) -> None:
        """Send one message, given in pieces; wait while the server gives no window or does not read.

        Cancelling it does not take the message back. Where the call is over nothing is sent.
        """
        whole = list(pieces)
        self.send(stream, write_prefix(0, sum(map(len, whole))))
        for piece in whole:
            if piece:
                self.send(stream, piece)
        if stream.pending:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            stream.app.room.append(room)
            await room

    def abandon(self, stream: Stream) -> None:
        """End a call that nobody waits for any more: its listener hears nothing of it."""
        self.cancel(stream)

    # What the connection tells.

    def responded(self, stream: Stream, fields: list[Field]) -> None:
        """End the call where what answers is no gRPC."""
        head = dict(fields)
        status = head[b":status"]
        if b"grpc-status" in head:
            return
        if status != b"200":
            code = _HTTP.get(status, StatusCode.UNKNOWN)
            self._refuse_answer(stream, Status(code, f"HTTP status {status.decode('latin-1')}"))
        elif not head.get(b"content-type", b"").startswith(b"application/grpc"):
            kind = line(head.get(b"content-type", b"").decode("latin-1"), 80)
            self._refuse_answer(stream, Status(StatusCode.UNKNOWN, f"what answers is no gRPC (content-type {kind!r})"))

    def received(self, stream: Stream, data: memoryview) -> None:
        """Read messages."""
        app: _App = stream.app
        size = len(data)
        try:
            messages = app.reader.read(data, dict(stream.head).get(b"grpc-encoding", b"identity"))
        except CallError as error:
            self._refuse_answer(stream, error.status)
            return
        self.consumed(stream, size)
        for message in messages:
            app.listener.answered(message)

    def finished(self, stream: Stream, trailers: list[Field]) -> None:
        """Read how the call has ended."""
        app: _App = stream.app
        fields = dict(trailers or stream.head)
        code = fields.get(b"grpc-status", b"")
        if not code.isdigit() or int(code) not in StatusCode.__members__.values():
            status = Status(StatusCode.UNKNOWN, "the answer ends without a valid grpc-status")
        elif app.reader.buffer:
            status = Status(StatusCode.INTERNAL, "the answer ends within a message")
        else:
            status = Status(int(code), line(percent_decoded(fields.get(b"grpc-message", b"")), _REASON))
        self._end_call(stream, status)

    def lost(self, stream: Stream) -> None:
        """The call was reset, or the connection is gone."""
        if stream.reset_code is None:
            reason = self._reason or "the connection was closed"
            self._end_call(stream, Status(StatusCode.UNAVAILABLE, reason))
        else:
            code = ErrorCode(stream.reset_code) if stream.reset_code in _KNOWN_CODES else ErrorCode.INTERNAL_ERROR
            reason = f"the call was reset ({code.name})"
            self._end_call(stream, Status(_RESET.get(code, StatusCode.INTERNAL), self._reason or reason))

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a call in which the server broke a rule."""
        stream.reset_code = code
        super().reset(stream, code)

    def leaving(self, code: int, reason: str) -> None:
        """Tell the calls; where the server is at odds with us, its reason is that of the end of each call."""
        if code != ErrorCode.NO_ERROR or reason:
            name = ErrorCode(code).name if code in _KNOWN_CODES else str(code)
            self._reason = f"the server closed the connection ({name}{': ' if reason else ''}{line(reason, 500)})"
        for stream in list(self.streams.values()):
            stream.app.listener.leaving(reason)

    def drained(self, stream: Stream) -> None:
        """Let the next message in."""
        self._let_in(stream)

    def closed(self, stream: Stream) -> None:
        """Let nobody wait for a call that is over."""
        self._let_in(stream)

    def fail(self, code: ErrorCode, reason: str) -> None:
        """Close the connection to a server that breaks the rules."""
        self._reason = self._reason or f"the server breaks HTTP/2 ({code.name}: {reason})"
        super().fail(code, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the calls why."""
        if exc is not None:
            self._reason = self._reason or f"the connection broke: {said(exc)}"
        self.gone.set_result(None)
        super().connection_lost(exc)

    def _refuse_answer(self, stream: Stream, status: Status) -> None:
        self._end_call(stream, status)
        self.cancel(stream)

    def _end_call(self, stream: Stream, status: Status) -> None:
        stream.app.listener.ended(status)

    def _let_in(self, stream: Stream) -> None:
        for room in stream.app.room:
            if not room.done():
                room.set_result(None)
        stream.app.room.clear()


_KNOWN_CODES = frozenset(map(int, ErrorCode))


def request_head(authority: str, method: str, *, tls: bool, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the header block of calls of one method; it uses no table, and so serves for all of them."""
    # :method POST, and :scheme http or https, are entries 3, 6 and 7 of the static table (RFC 7541, appendix A).
    block = b"\x83" + (b"\x87" if tls else b"\x86")
    fields = [(":path", method), (":authority", authority), ("content-type", "application/grpc"), ("te", "trailers")]
    fields += [("user-agent", f"polku/{__version__}"), *metadata]
    return block + b"".join(literal(name.encode(), value.encode()) for name, value in fields)
