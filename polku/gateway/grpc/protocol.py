"""gRPC over HTTP/2 (PROTOCOL-HTTP2.md of gRPC), without any service.

Calls of a `BatchMethod` that one read brought are handed over together, and answered by their numbers. Calls of a
`StreamMethod` get an object that is called with the messages as they come.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from polku.gateway.grpc.status import HEAD, OK_TRAILERS, CallError, Status, StatusCode, trailers, whole_answer
from polku.http2.connection import Connection
from polku.http2.frames import ErrorCode, StreamError
from polku.http2.header_blocks import Field, literal
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream
from polku.log import RepeatedLog
from polku.text import named
from polku.usercode import is_ours

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_PREFIX = struct.Struct(">BI")  # whether it is compressed, and the length of the message
_PREFIX_BYTES = 5
_ENCODINGS = (b"identity", b"gzip")
_ACCEPTED = (("grpc-accept-encoding", "identity,gzip"),)
_HTTP1 = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"TRACE ")
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_OF_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_VARYING = frozenset((b"grpc-timeout", b"traceparent", b"tracestate"))
_KNOWN_HEADS = 256
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NOT_GRPC = "this port speaks gRPC over HTTP/2: send POST with content-type: application/grpc"


class BatchMethod(NamedTuple):
    """Unary calls, all that have come at once: `handle(connection, [(number, message), …])`.

    Each is answered by `respond` or `refuse`, now or later.
    """

    handle: Callable[[GrpcConnection, list[tuple[int, bytes]]], None]


class UnaryMethod(NamedTuple):
    """A unary call: `handle(message, context)` returns the answer; it raises `CallError` for another status."""

    handle: Callable[[bytes, CallContext], Awaitable[bytes]]


class StreamMethod(NamedTuple):
    """A call with any number of messages on both sides: `open(call)` returns what takes them."""

    open: Callable[[StreamCall], StreamHandler]


class StreamHandler(Protocol):
    """Take the messages of one call. Nothing here may raise."""

    def messages(self, messages: list[bytes]) -> bool:
        """Take messages; return whether more may come: where not, `StreamCall.go_on` asks for them."""
        ...

    def ended(self) -> None:
        """The client will send no more."""
        ...

    def drained(self) -> None:
        """All that was sent has left."""
        ...

    def lost(self) -> None:
        """The client has left."""
        ...


Method = BatchMethod | UnaryMethod | StreamMethod


class Head(NamedTuple):
    """What the header fields of a request mean."""

    method: Method | None
    fault: Status | None  # what it is answered with, whatever its body says
    length: int  # content-length; -1: none
    encoding: bytes
    timeout: float | None
    metadata: Mapping[str, str]


class CallContext:
    """What a unary method may know of its call, with the names of `grpc.aio.ServicerContext`."""

    def __init__(self, peer: str, metadata: Mapping[str, str]) -> None:
        self._peer = peer
        self._metadata = metadata

    def peer(self) -> str:
        """Return the client's address."""
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the request's metadata."""
        return tuple(self._metadata.items())

    async def abort(self, code: Any, details: str = "", trailing_metadata: Sequence[tuple[str, str]] = ()) -> None:
        """End the call with a status."""
        number = code.value[0] if isinstance(code.value, tuple) else int(code)
        raise CallError(Status(number, details, tuple(trailing_metadata)))


class _Reader:
    """Cut a request's body into messages."""

    __slots__ = ("buffer", "counted", "limit", "needed")

    def __init__(self, limit: int) -> None:
        self.buffer = bytearray()
        self.counted = 0  # bytes of `buffer` that `GrpcConnection.unfinished` has
        self.needed = _PREFIX_BYTES
        self.limit = limit

    def read(self, data: memoryview, encoding: bytes) -> list[bytes]:
        """Return the messages that are complete; raises `CallError`."""
        if self.buffer:
            self.buffer += data
            if len(self.buffer) < self.needed:
                return []
            whole, self.buffer = self.buffer, bytearray()
            data = memoryview(whole)
        messages: list[bytes] = []
        at, end = 0, len(data)
        self.needed = _PREFIX_BYTES
        while end - at >= _PREFIX_BYTES:
            flag, size = _PREFIX.unpack_from(data, at)
            if size > self.limit:
                raise CallError(too_large(size, self.limit))
            start = at + _PREFIX_BYTES
            if end - start < size:
                self.needed = _PREFIX_BYTES + size
                break
            message = bytes(data[start : start + size])
            messages.append(inflate(message, encoding, self.limit) if flag else message)
            at = start + size
        if at < end:
            self.buffer += data[at:]
        return messages


class StreamCall:
    """A call with many messages, as its handler sees it."""

    __slots__ = ("_connection", "_stream", "began", "handler", "head", "is_held", "owed", "peer", "reader")

    def __init__(self, connection: GrpcConnection, stream: Stream, head: Head) -> None:
        self._connection = connection
        self._stream = stream
        self.head = head
        self.peer = connection.peer
        self.reader = _Reader(connection.message_limit)
        self.handler: StreamHandler | None = None
        self.began = False
        self.is_held = False  # the handler takes no more for now
        self.owed = 0  # bytes that came meanwhile, for which the client gets no credit yet

    def send(self, message: bytes) -> None:
        """Send a message."""
        self._begin()
        self._connection.send(self._stream, _PREFIX.pack(0, len(message)) + message)

    def finish(self, status: Status) -> None:
        """End the call."""
        block = trailers(status) if self.began else whole_answer(status)
        self._connection.end(self._stream, block)

    def go_on(self) -> None:
        """Let more messages come, after `messages` has returned False."""
        self.is_held = False
        self._stream.touched = time.monotonic()  # until now the client could not send more
        owed, self.owed = self.owed, 0
        if owed:
            self._connection.consumed(self._stream, owed)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were sent and that the client gives no window for."""
        return self._stream.pending_bytes

    def _begin(self) -> None:
        if not self.began:
            self.began = True
            self._connection.send_headers(self._stream, HEAD)


class _Unary:
    """A unary call whose body comes in pieces."""

    __slots__ = ("head", "messages", "reader")

    def __init__(self, head: Head, limit: int) -> None:
        self.head = head
        self.reader = _Reader(limit)
        self.messages: list[bytes] = []


class _Refused(NamedTuple):
    """A call whose answer is known before its messages come."""

    status: Status


class GrpcConnection(Connection):
    """One client's connection."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        limits: ConnectionLimits,
        message_limit: int,
        known: dict[tuple[Field, ...], Head],
        registered: set[GrpcConnection],
    ) -> None:
        super().__init__(limits)
        self.message_limit = message_limit
        self.unfinished = 0  # bytes of messages that have come in part
        self.peer = ""
        self._methods = methods
        self._known = known  # of all connections: heads by their fields, without those that vary with each call
        self._registered = registered
        self._calls: list[tuple[int, bytes]] = []
        self._calls_method: BatchMethod | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who the peer is."""
        self._registered.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.peer = _peer_of(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the calls."""
        self._registered.discard(self)
        self.gone.set_result(None)
        super().connection_lost(exc)
        for task in self._tasks:
            task.cancel()

    # Answers to calls of a `BatchMethod` or `UnaryMethod`, by number.

    def respond(self, number: int, message: bytes) -> None:
        """Answer a call; nothing happens where the client has left."""
        body = _PREFIX.pack(0, len(message)) + message
        self.answer(number, HEAD, body, OK_TRAILERS)

    def refuse(self, number: int, status: Status) -> None:
        """End a call with another status than OK."""
        self.answer_without_body(number, whole_answer(status))

    # What the connection asks for.

    def read_head(self, fields: list[Field]) -> Head:
        """Read the fields of a request; what varies with each call is read each time."""
        lasting = tuple([field for field in fields if field[0] not in _VARYING])
        head = self._known.get(lasting)
        if head is None:
            head = self._read_fields(lasting)
            if len(self._known) >= _KNOWN_HEADS:
                self._known.clear()
            self._known[lasting] = head
        return head if len(lasting) == len(fields) else _with_varying(head, fields)

    def requested(self, number: int, head: Head, body: bytes) -> bool:
        """Take a whole call of one message."""
        method = head.method
        if head.fault is not None or isinstance(method, StreamMethod) or head.length not in (-1, len(body)):
            return False
        if len(body) < _PREFIX_BYTES:
            return False
        flag, size = _PREFIX.unpack_from(body)
        if size != len(body) - _PREFIX_BYTES or size > self.message_limit or flag:
            return False
        self._take(number, head, body[_PREFIX_BYTES:])
        return True

    def opened(self, stream: Stream) -> None:
        """Begin a call."""
        head: Head = stream.head
        if head.fault is not None:
            stream.app = _Refused(head.fault)
            if head.fault.code >= 0:
                self.end(stream, whole_answer(head.fault))
        elif isinstance(head.method, StreamMethod):
            call = StreamCall(self, stream, head)
            stream.app = call
            call.handler = head.method.open(call)
        else:
            stream.app = _Unary(head, self.message_limit)

    def received(self, stream: Stream, data: memoryview) -> None:
        """Read messages."""
        app = stream.app
        size = len(data)
        if isinstance(app, _Refused):
            self.consumed(stream, size)
            return
        try:
            messages = app.reader.read(data, app.head.encoding)
            self._count_unfinished(app.reader)
        except CallError as error:
            self.consumed(stream, size)
            self._fail(stream, error.status)
            return
        if isinstance(app, _Unary):
            self.consumed(stream, size)
            app.messages += messages
            if len(app.messages) > 1:
                self._fail(stream, Status(StatusCode.UNIMPLEMENTED, "more than one message in a unary call"))
            return
        if messages and not app.handler.messages(messages):
            app.is_held = True
        if app.is_held:
            app.owed += size
        else:
            self.consumed(stream, size)

    def ended(self, stream: Stream) -> None:
        """End the reading of a call."""
        app = stream.app
        if isinstance(app, _Refused):
            self._answer_http(stream, app.status)
        elif app.reader.buffer:
            self._fail(stream, Status(StatusCode.INTERNAL, "the request ends within a message"))
        elif isinstance(app, StreamCall):
            assert app.handler is not None
            app.handler.ended()
        elif not app.messages:
            self._fail(stream, Status(StatusCode.UNIMPLEMENTED, "a unary call without a message"))
        else:
            self._take(stream.number, app.head, app.messages[0])

    def closed(self, stream: Stream) -> None:
        """Forget the message that has come in part."""
        reader = getattr(stream.app, "reader", None)
        if reader is not None:
            self.unfinished -= reader.counted
            reader.counted = 0
            reader.buffer = bytearray()

    def lost(self, stream: Stream) -> None:
        """Tell the handler."""
        app = stream.app
        if isinstance(app, StreamCall) and app.handler is not None:
            app.handler.lost()

    def drained(self, stream: Stream) -> None:
        """Tell the handler."""
        app = stream.app
        if isinstance(app, StreamCall) and app.handler is not None:
            app.handler.drained()

    def check_times(self, now: float) -> None:
        """End calls whose message does not come to its end, though the client may send it."""
        super().check_times(now)
        if not self.may_send:
            return
        longest = self.limits.message_seconds
        for stream in list(self.streams.values()):
            if now - stream.touched > longest and not stream.remote_ended and _is_owed(stream.app):
                reason = f"no more of a message has come for {longest:g} s; send it again"
                self._fail(stream, Status(StatusCode.DEADLINE_EXCEEDED, reason))

    def reading_done(self) -> None:
        """Hand over the calls that this read brought."""
        if self._calls:
            self._hand_over()

    def greeting_failed(self, data: bytes) -> bytes:
        """Tell clients of HTTP/1 what this port is."""
        if not data.startswith(_HTTP1):
            return b""
        text = f"{_NOT_GRPC}.\n".encode()
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        )
        return head % len(text) + text

    def _take(self, number: int, head: Head, message: bytes) -> None:
        method = head.method
        if isinstance(method, BatchMethod):
            if method is not self._calls_method:
                if self._calls:
                    self._hand_over()
                self._calls_method = method
            self._calls.append((number, message))
        elif isinstance(method, UnaryMethod):
            task = asyncio.ensure_future(self._run(method, number, head, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _hand_over(self) -> None:
        calls, self._calls = self._calls, []
        assert self._calls_method is not None
        self._calls_method.handle(self, calls)

    async def _run(self, method: UnaryMethod, number: int, head: Head, message: bytes) -> None:
        try:
            answering = method.handle(message, CallContext(self.peer, head.metadata))
            async with asyncio.timeout(head.timeout):
                answer = await answering
        except CallError as error:
            self.refuse(number, error.status)
        except TimeoutError:
            self.refuse(number, Status(StatusCode.DEADLINE_EXCEEDED, "the deadline of the call is over"))
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("unary", "a call could not be answered")
            self.refuse(number, Status(StatusCode.INTERNAL, named(error)))
        else:
            self.respond(number, answer)

    def _count_unfinished(self, reader: _Reader) -> None:
        size = len(reader.buffer)
        self.unfinished += size - reader.counted
        reader.counted = size
        limit = self.limits.unfinished
        if self.unfinished > limit:
            reason = (
                f"messages that have come in part take more than {limit} bytes on this connection; send fewer at once"
            )
            raise CallError(Status(StatusCode.RESOURCE_EXHAUSTED, reason))

    def _fail(self, stream: Stream, status: Status) -> None:
        """End a call while its request still comes."""
        app = stream.app
        if isinstance(app, StreamCall):
            assert app.handler is not None
            app.handler.lost()
            app.finish(status)
        else:
            self.end(stream, whole_answer(status))

    def _answer_http(self, stream: Stream, status: Status) -> None:
        """Answer a request that is no gRPC, once it has come to its end."""
        block = literal(b":status", b"415") + literal(b"content-type", b"text/plain")
        self.send_headers(stream, block)
        self.send(stream, f"{status.message}\n".encode())
        self.end(stream)

    def _read_fields(self, fields: Sequence[Field]) -> Head:
        seen: dict[bytes, bytes] = {}
        metadata: dict[str, str] = {}
        length = -1
        for name, value in fields:
            if name[:1] == b":":
                if metadata or name in seen or name not in _PSEUDO:
                    raise StreamError(ErrorCode.PROTOCOL_ERROR, "pseudo-header fields that are wrong or late")
                seen[name] = value
                continue
            if name != name.lower() or name in _OF_CONNECTION or (name == b"te" and value != b"trailers"):
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "a field that HTTP/2 does not allow")
            if name == b"content-length":
                if not value.isdigit():
                    raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is no number")
                length = int(value)
            seen[name] = value
            metadata[name.decode("latin-1")] = value.decode("latin-1")
        if not seen.get(b":path") or b":method" not in seen or b":scheme" not in seen:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a request without :method, :scheme or :path")
        encoding = seen.get(b"grpc-encoding", b"identity")
        method = self._methods.get(seen[b":path"])
        head = Head(method, None, length, encoding, None, metadata)
        if seen[b":method"] != b"POST" or not seen.get(b"content-type", b"").startswith(b"application/grpc"):
            return head._replace(fault=Status(-1, _NOT_GRPC))
        if method is None:
            path = seen[b":path"].decode("latin-1")
            return head._replace(fault=Status(StatusCode.UNIMPLEMENTED, f"unknown method {path}"))
        if encoding not in _ENCODINGS:
            reason = f"grpc-encoding: {encoding.decode('latin-1')} is not supported; use identity or gzip"
            return head._replace(fault=Status(StatusCode.UNIMPLEMENTED, reason, _ACCEPTED))
        return head


def _is_owed(app: Any) -> bool:
    """Return whether the client has begun a message, and nothing here keeps it from sending the rest."""
    return isinstance(app, _Unary) or (isinstance(app, StreamCall) and not app.is_held and bool(app.reader.buffer))


def too_large(size: int, limit: int) -> Status:
    """Return the status of a message that is over the limit."""
    reason = f"TOO_LARGE: message: {size} bytes, the limit is {limit}; send smaller ones"
    return Status(StatusCode.RESOURCE_EXHAUSTED, reason)


def inflate(message: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a message without its compression; raises `CallError`, at `limit` bytes at the latest."""
    if encoding != b"gzip":
        raise CallError(Status(StatusCode.INTERNAL, "a compressed message without grpc-encoding"))
    reader = zlib.decompressobj(31)
    try:
        plain = reader.decompress(message, limit + 1)
    except zlib.error as error:
        raise CallError(Status(StatusCode.INTERNAL, f"message: not valid gzip ({error})")) from None
    if len(plain) > limit:
        raise CallError(too_large(len(plain), limit))
    if not reader.eof:
        raise CallError(Status(StatusCode.INTERNAL, "message: gzip that ends too early"))
    return plain


def _with_varying(head: Head, fields: Sequence[Field]) -> Head:
    """Return the head of one call: its deadline, and all of its metadata for a method that may ask for it."""
    first = next(place for place, (name, _) in enumerate(fields) if name in _VARYING)
    if any(name[:1] == b":" for name, _ in fields[first:]):
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "pseudo-header fields that are late")
    varying = {name: value for name, value in fields[first:] if name in _VARYING}
    if isinstance(head.method, UnaryMethod):
        own = {name.decode(): value.decode("latin-1") for name, value in varying.items()}
        head = head._replace(metadata={**head.metadata, **own})
    timeout = varying.get(b"grpc-timeout")
    return head if timeout is None or head.fault is not None else _with_timeout(head, timeout)


def _with_timeout(head: Head, value: bytes) -> Head:
    """Read `grpc-timeout`: up to eight digits and a unit."""
    unit = _UNITS.get(value[-1:])
    if unit is None or not value[:-1].isdigit() or len(value) > 9:
        reason = f"grpc-timeout: {value.decode('latin-1')} is no timeout; write up to 8 digits and H, M, S, m, u or n"
        return head._replace(fault=Status(StatusCode.INVALID_ARGUMENT, reason))
    return head._replace(timeout=int(value[:-1]) * unit)


def _peer_of(transport: asyncio.BaseTransport) -> str:
    """Return the peer's name as grpcio writes it."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{'ipv6' if ':' in name[0] else 'ipv4'}:{host}:{name[1]}"
    return f"unix:{id(transport)}"
