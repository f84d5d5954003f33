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
from polku.rpc.details import retry_seconds
from polku.rpc.messages import PREFIX_BYTES, MessageReader, read_prefix, write_prefix
from polku.rpc.status import Status, StatusCode, percent_decoded
from polku.text import line, said
from polku.version import __version__

_MESSAGE_BYTES = 64 << 20  # of an answer
_REASON = 1_000  # characters of what a server says about the end of a call
_CODE_DIGITS = 9
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

_NO_STATUS = Status(StatusCode.UNKNOWN, "the answer ends without a valid grpc-status")


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


class AnswerFields(NamedTuple):
    """What a header block of an answer says: `status` is that of the call, `fault` of what is no answer of gRPC."""

    http: bytes
    encoding: bytes
    status: Status | None
    fault: Status | None


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

    @property
    def reason(self) -> str:
        """Why the connection ends, or has ended."""
        return self._reason or "the connection was closed"

    def begin(self, block: bytes, listener: Listener) -> Stream:
        """Begin a call; `block` is that of `request_head`."""
        stream = self.request(block)
        stream.app = _App(listener, MessageReader(_MESSAGE_BYTES), [])
        return stream

    def ask(self, block: bytes, message: bytes, listener: Listener) -> Stream:
        """Make a call of one message."""
        stream = self.request_whole(block, write_prefix(0, len(message)) + message)
        stream.app = _App(listener, MessageReader(_MESSAGE_BYTES), [])
        return stream

    def post(self, stream: Stream, pieces: Iterable[bytes], *, is_packed: bool = False) -> None:
        """Send one message, given in pieces, now or when there is a window; where the call is over nothing is sent."""
        whole = list(pieces)
        self.send(stream, write_prefix(is_packed, sum(map(len, whole))))
        for piece in whole:
            if piece:
                self.send(stream, piece)

    async def write(self, stream: Stream, pieces: Iterable[bytes], *, is_packed: bool = False) -> None:
        """Send one message, compressed as the call's `grpc-encoding` says where it `is_packed`.

        Waits while the server gives no window or does not read.

        Cancelling it does not take the message back.
        """
        self.post(stream, pieces, is_packed=is_packed)
        if stream.pending:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            stream.app.room.append(room)
            await room

    def abandon(self, stream: Stream) -> None:
        """End a call that nobody waits for any more: its listener hears nothing of it."""
        self.cancel(stream)

    # What the connection tells.

    def meaning(self, fields: list[Field]) -> AnswerFields:
        """Read a head or trailers."""
        named = dict(fields)
        http = named.get(b":status", b"")
        code = named.get(b"grpc-status")
        status = fault = None
        if code is not None:
            if code.isdigit() and len(code) <= _CODE_DIGITS and int(code) in StatusCode.__members__.values():
                text = line(percent_decoded(named.get(b"grpc-message", b"")), _REASON)
                details = named.get(b"grpc-status-details-bin")
                status = Status(int(code), text, retry_seconds=None if details is None else retry_seconds(details))
            else:
                status = _NO_STATUS
        elif http and http != b"200":
            fault = Status(_HTTP.get(http, StatusCode.UNKNOWN), f"HTTP status {http.decode('latin-1')}")
        elif http and not named.get(b"content-type", b"").startswith(b"application/grpc"):
            kind = line(named.get(b"content-type", b"").decode("latin-1"), 80)
            fault = Status(StatusCode.UNKNOWN, f"what answers is no gRPC (content-type {kind!r})")
        return AnswerFields(http, named.get(b"grpc-encoding", b"identity"), status, fault)

    def responded(self, stream: Stream) -> None:
        """End the call where what answers is no gRPC."""
        if stream.head.fault is not None:
            self._refuse_answer(stream, stream.head.fault)

    def answered(self, stream: Stream, head: AnswerFields, body: bytes, trailers: AnswerFields) -> bool:
        """Take the answer to a call of one message."""
        if head.http != b"200" or head.fault is not None or head.status is not None:
            return False
        if trailers.http or trailers.status is None or len(body) < PREFIX_BYTES:
            return False
        flag, size = read_prefix(body)
        if flag or size != len(body) - PREFIX_BYTES:
            return False
        listener: Listener = stream.app.listener
        listener.answered(body[PREFIX_BYTES:])
        listener.ended(trailers.status)
        return True

    def received(self, stream: Stream, data: memoryview) -> None:
        """Read messages."""
        app: _App = stream.app
        size = len(data)
        messages = app.reader.read(data, stream.head.encoding)
        self.consumed(stream, size)
        for message in messages:
            app.listener.answered(message)
        if app.reader.fault is not None:
            self._refuse_answer(stream, app.reader.fault)

    def finished(self, stream: Stream, trailers: AnswerFields | None) -> None:
        """Read how the call has ended."""
        app: _App = stream.app
        status = (trailers or stream.head).status or _NO_STATUS
        if app.reader.buffer and status is not _NO_STATUS:
            status = Status(StatusCode.INTERNAL, "the answer ends within a message")
        self._end_call(stream, status)

    def lost(self, stream: Stream) -> None:
        """The call was reset, or the connection is gone."""
        if stream.reset_code is None:
            self._end_call(stream, Status(StatusCode.UNAVAILABLE, self.reason))
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
