"""gRPC over HTTP/2 (PROTOCOL-HTTP2.md of gRPC), without any service.

Calls of a `BatchMethod` that one read brought are handed over together, and answered by their numbers. Calls of a
`StreamMethod` get an object that is called with the messages as they come.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

from polku.aio.peer import uid_of
from polku.codes import Code
from polku.errors import InputError
from polku.gateway.grpc.answers import HEAD, OK_TRAILERS, PACKED_HEAD, whole_answer
from polku.gateway.grpc.calls import BatchMethod, CallContext, Head, StreamCall, StreamMethod, UnaryMethod
from polku.gateway.grpc.greeting import answer_others, peer_of
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.unary_call import LATE, RefusedCall, UnaryCall, end_late, is_owed, too_slow, unpack_later
from polku.gateway.grpc_status import status_of
from polku.gateway.listen import address_of
from polku.http2.connection import Connection
from polku.http2.header_blocks import literal
from polku.http2.stream import Stream
from polku.log import RepeatedLog
from polku.rpc.messages import PREFIX_BYTES, MessageReader, prefixed, read_prefix
from polku.rpc.status import CallError, Status, StatusCode
from polku.security.certificate_names import names_of
from polku.text import named
from polku.usercode import is_ours

if TYPE_CHECKING:
    from polku.security.account import Account
    from polku.security.authenticator import Authenticated

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_TOGETHER_BYTES = 1 << 20  # of calls that are handed over together


class GrpcConnection(Connection):
    """One client's connection."""

    def __init__(self, port: GrpcPort) -> None:
        super().__init__(port.limits)
        self._port = port
        self.message_limit, self.plain_limit = port.message_limit, port.plain_limit
        self.unfinished = 0  # bytes of messages that have come in part
        self.waiting = 0  # bytes of whole messages that wait in streams
        self.is_unread = False
        self._calls_bytes = 0
        self.peer = ""
        self.address = ""
        self.read_head = port.heads.read  # type: ignore[method-assign] # no call in between
        self.account: Account | None = None  # of whom the calls are that are handed over
        self._authenticator = port.authenticator
        self._names: tuple[str, ...] = ()  # in the client's certificate
        self._uid: int | None = None  # of the client of a Unix socket
        self._accounts: set[Account] = set()  # that this connection counts for
        self._calls: list[tuple[int, bytes]] = []
        self._calls_method: BatchMethod | None = None
        self._deadlines: dict[int, float] = {}  # of calls without an answer, by the monotonic clock
        self._tasks: set[asyncio.Future[Any]] = set()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who the peer is."""
        self._port.connections.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.peer, self.address = peer_of(transport), address_of(transport)
        if self._authenticator is not None:
            self._names, self._uid = names_of(transport.get_extra_info("peercert")), uid_of(transport)
        super().connection_made(transport)
        if reason := self._port.places.enter(self.address, self):
            self.turn_away(reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the calls."""
        self._port.connections.discard(self)
        self._port.places.leave(self.address, self)
        for account in self._accounts:
            account.leave_connection()
        self.gone.set_result(None)
        super().connection_lost(exc)
        for task in self._tasks:
            task.cancel()

    @property
    def is_used(self) -> bool:
        """Whether a call was ever made."""
        return self._last > 0

    # Answers to calls of a `BatchMethod` or `UnaryMethod`, by number.

    def respond(self, number: int, message: bytes) -> None:
        """Answer a call; nothing happens where the client has left."""
        self._deadlines.pop(number, None)
        stream = self.streams.get(number)  # a call whose message was compressed has one
        packed = stream is not None and stream.head is not None and stream.head.packs
        head = PACKED_HEAD if packed else HEAD
        self.answer(number, head, prefixed(message, packed=packed), OK_TRAILERS)

    def refuse(self, number: int, status: Status) -> None:
        """End a call with another status than OK."""
        self._deadlines.pop(number, None)
        self.answer_without_body(number, whole_answer(status))

    # What the connection asks for.

    def requested(self, number: int, head: Head, body: bytes) -> bool:
        """Take a whole call of one message."""
        method = head.method
        if head.fault is not None or isinstance(method, StreamMethod) or head.length not in (-1, len(body)):
            return False
        if len(body) < PREFIX_BYTES:
            return False
        flag, size = read_prefix(body)
        if size != len(body) - PREFIX_BYTES or size > self.message_limit or flag:
            return False
        account = None
        if self._authenticator is not None and not head.is_open:
            try:
                account = self.identify(head).account
            except InputError:
                return False  # it comes again by `opened`
        if head.timeout is not None:
            self._deadlines[number] = self._touched + head.timeout
        self._take(number, head, account, body[PREFIX_BYTES:])
        return True

    def opened(self, stream: Stream) -> None:
        """Begin a call."""
        head: Head = stream.head
        if head.fault is not None:
            stream.app = RefusedCall(head.fault)
            if head.fault.code >= 0:
                self.end(stream, whole_answer(head.fault))
            return
        identity = None
        if self._authenticator is not None and not head.is_open:
            try:
                identity = self.identify(head)
            except InputError as error:
                self._refuse_stranger(stream, error)
                return
        if head.timeout is not None:
            self._deadlines[stream.number] = self._touched + head.timeout
        if isinstance(head.method, StreamMethod):
            call = StreamCall(self, stream, head, identity)
            stream.app = call
            call.handler = head.method.open(call)
        else:
            stream.app = UnaryCall(head, identity and identity.account, self.message_limit, self.plain_limit)
            stream.app.reader.began = stream.touched

    def received(self, stream: Stream, data: memoryview) -> None:
        """Read messages."""
        app = stream.app
        size = len(data)
        if isinstance(app, RefusedCall) or app.reader.fault is not None:
            self.consumed(stream, size)
            return
        messages = app.reader.read(data, app.head.encoding)
        if isinstance(app, UnaryCall):
            app.messages += messages
        elif messages and not app.handler.messages(messages):
            app.is_held = True
        is_held = isinstance(app, StreamCall) and app.is_held
        fault = app.reader.fault or self._count_unfinished(app.reader, is_held=is_held)
        if fault is None and isinstance(app, UnaryCall) and len(app.messages) > 1:
            fault = Status(StatusCode.UNIMPLEMENTED, "more than one message in a unary call; send one")
        if is_held and fault is None:
            app.owed += size
        else:
            self.consumed(stream, size)
        if fault is not None:
            self._fail(stream, fault)

    def ended(self, stream: Stream) -> None:
        """End the reading of a call."""
        app = stream.app
        if isinstance(app, RefusedCall):
            if app.status.code < 0:  # others have their answer, or get it soon
                self._answer_http(stream, app.status)
        elif app.reader.fault is not None:
            return  # it ends when what came before is answered
        elif app.reader.buffer:
            self._fail(stream, Status(StatusCode.INTERNAL, "the request ends within a message; send it again whole"))
        elif isinstance(app, StreamCall):
            assert app.handler is not None
            app.handler.ended()
        elif not app.messages:
            self._fail(stream, Status(StatusCode.UNIMPLEMENTED, "a unary call without a message; send one"))
        else:
            self._take_packed(stream.number, app)

    def _take_packed(self, number: int, app: UnaryCall) -> None:
        """Take the message of a call, without its compression; a large one is decompressed in turns with others."""
        try:
            message = app.plain()
        except CallError as error:
            self.refuse(number, error.status)
            return
        if message is None:
            self._keep(asyncio.ensure_future(unpack_later(self, number, app, self._port.unpacking)))
        else:
            self._take(number, app.head, app.account, message)

    def take_late(self, number: int, app: UnaryCall, message: bytes) -> None:
        """Take the message of a call that was decompressed meanwhile, if its client is still there."""
        if not self.is_closed and number in self.streams:
            self._take(number, app.head, app.account, message)
            self.reading_done()

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def closed(self, stream: Stream) -> None:
        """Forget the message that has come in part."""
        self._deadlines.pop(stream.number, None)
        reader = getattr(stream.app, "reader", None)
        if reader is not None:
            self._forget_part(reader)

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

    def retiring(self, reason: str) -> None:
        """Let streams end: what has come is answered."""
        for stream in list(self.streams.values()):
            app = stream.app
            if isinstance(app, StreamCall) and app.handler is not None:
                app.handler.leave(Status(StatusCode.UNAVAILABLE, reason))

    def check_times(self, now: float) -> None:
        """End calls whose time is over, or whose message does not come to its end, though the client may send it."""
        for number in [number for number, deadline in self._deadlines.items() if now > deadline]:
            del self._deadlines[number]
            end_late(self, number)
        self._was_heard |= self.is_unread
        super().check_times(now)
        limits = self.limits
        for stream in list(self.streams.values()):
            if stream.remote_ended or not is_owed(stream.app):
                continue
            reader = stream.app.reader
            if self.is_unread:
                stream.touched = reader.began = now
            elif not self.may_send:
                reader.began = now
            elif now - stream.touched > limits.message_seconds:
                self._fail(stream, too_slow(f"no more of a message has come for {limits.message_seconds:g} s"))
            elif now - reader.began > limits.whole_message_seconds:
                self._fail(stream, too_slow(f"a message takes more than {limits.whole_message_seconds:g} s"))

    def reading_done(self) -> None:
        """Hand over the calls that this read brought."""
        if self._calls:
            self._hand_over()

    def greeting_failed(self, data: bytes) -> bytes | None:
        """Tell clients of HTTP/1 what this port is, and the log of clients of TLS."""
        return answer_others(data, self.address)

    def identify(self, head: Head) -> Authenticated:
        """Return whose call this is; raises `InputError`."""
        assert self._authenticator is not None
        identity = self._authenticator.identify(head.metadata.get("authorization", ""), self._names, self._uid)
        if identity.account not in self._accounts:
            if reason := identity.account.enter_connection():
                raise InputError(Code.RATE_LIMITED, reason)
            self._accounts.add(identity.account)
        return identity

    def _refuse_stranger(self, stream: Stream, error: InputError) -> None:
        """Refuse a call of a client that is not known, later where its address has failed often."""
        status = status_of(error)
        stream.app = RefusedCall(status)
        pause = 0.0
        if self._authenticator is not None and error.code is Code.UNAUTHENTICATED:
            pause = self._authenticator.failures.add(self.address, error.message)
        if pause:
            asyncio.get_running_loop().call_later(pause, self.refuse, stream.number, status)
        else:
            self.end(stream, whole_answer(status))

    def _take(self, number: int, head: Head, account: Account | None, message: bytes) -> None:
        method = head.method
        if isinstance(method, BatchMethod):
            if method is not self._calls_method or account is not self.account:
                if self._calls:
                    self._hand_over()
                self._calls_method, self.account = method, account
            self._calls.append((number, message))
            self._calls_bytes += len(message)
            if self._calls_bytes >= _TOGETHER_BYTES:  # compressed ones may be many times what came
                self._hand_over()
        elif isinstance(method, UnaryMethod):
            self._keep(asyncio.ensure_future(self._run(method, number, head, message)))

    def _hand_over(self) -> None:
        calls, self._calls, self._calls_bytes = self._calls, [], 0
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
            self.refuse(number, LATE)
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("unary", "a call could not be answered")
            self.refuse(number, Status(StatusCode.INTERNAL, named(error)))
        else:
            self.respond(number, answer)

    def count_waiting(self, change: int) -> None:
        """Count bytes of whole messages that wait; read no more while those of the address or the port are too many."""
        self.waiting += change
        if self._port.waiting.add(self.address, change):
            self._stop_reading()
        else:
            self.read_on()

    def read_on(self) -> None:
        """Read again, unless too much waits."""
        if self.is_unread and not (self.waiting and self._port.waiting.is_over(self.address)):
            self.is_unread = False
            if not self.is_closed:
                self._outbox.transport.resume_reading()

    def _stop_reading(self) -> None:
        if not (self.is_unread or self.is_closed):
            self.is_unread = True
            self._outbox.transport.pause_reading()

    def _count_unfinished(self, reader: MessageReader, *, is_held: bool) -> Status | None:
        """Count what has come in part; return why it is too much."""
        size = len(reader.buffer)
        change = size - reader.counted
        if not change:
            return None
        self.unfinished += change
        reader.counted = size
        reason = self._port.unfinished.add(self.address, change)
        if self.unfinished > self.limits.unfinished:
            limit = self.limits.unfinished
            reason = (
                f"messages that have come in part take more than {limit} bytes on one connection; send fewer at once"
            )
        if reason and is_held:  # the client could not know: it has a window
            self._stop_reading()
            return None
        return Status(StatusCode.RESOURCE_EXHAUSTED, reason) if reason else None

    def _forget_part(self, reader: MessageReader) -> None:
        self.unfinished -= reader.counted
        self._port.unfinished.add(self.address, -reader.counted)
        reader.counted = 0
        reader.buffer = bytearray()

    def _fail(self, stream: Stream, status: Status) -> None:
        """End a call while its request still comes: of many messages, behind the answers to those before."""
        app = stream.app
        if isinstance(app, StreamCall):
            app.reader.fault = status
            self._forget_part(app.reader)
            assert app.handler is not None
            app.handler.leave(status)
        else:
            self.end(stream, whole_answer(status))

    def _answer_http(self, stream: Stream, status: Status) -> None:
        """Answer a request that is no gRPC, once it has come to its end."""
        block = literal(b":status", b"415") + literal(b"content-type", b"text/plain")
        self.send_headers(stream, block)
        self.send(stream, f"{status.message}\n".encode())
        self.end(stream)
