"""What a service sees of gRPC: tables of methods, the head of a call, and calls with many messages."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from polku.gateway.grpc.answers import HEAD, PACKED_HEAD, trailers, whole_answer
from polku.http2.header_blocks import literal
from polku.http2.stream import Stream
from polku.rpc.messages import MessageReader, prefixed
from polku.rpc.status import CallError, Status

if TYPE_CHECKING:
    from polku.gateway.grpc.protocol import GrpcConnection
    from polku.security.authenticator import Authenticated


class BatchMethod(Struct, frozen=True):
    """Unary calls, all that have come at once: `handle(connection, [(number, message), …])`.

    Each is answered by `respond` or `refuse`, now or later.
    """

    handle: Callable[[GrpcConnection, list[tuple[int, bytes]]], None]


class UnaryMethod(Struct, frozen=True):
    """A unary call: `handle(message, context)` returns the answer; it raises `CallError` for another status."""

    handle: Callable[[bytes, CallContext], Awaitable[bytes]]


class StreamMethod(Struct, frozen=True):
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

    def leave(self, status: Status) -> None:
        """Take no more, and end the call with this status when what came before is answered."""
        ...

    def lost(self) -> None:
        """The client has left."""
        ...


Method = BatchMethod | UnaryMethod | StreamMethod


class Head(Struct, frozen=True):
    """What the header fields of a request mean."""

    method: Method | None
    fault: Status | None  # what it is answered with, whatever its body says
    length: int  # content-length; -1: none
    encoding: bytes
    timeout: float | None
    metadata: Mapping[str, str]
    packs: bool = False  # the client sends gzip and reads it: answers are compressed too
    is_open: bool = False  # whoever the client is


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


class StreamCall:
    """A call with many messages, as its handler sees it."""

    __slots__ = (
        "_connection",
        "_stream",
        "address",
        "began",
        "handler",
        "head",
        "identity",
        "is_held",
        "owed",
        "peer",
        "reader",
    )

    def __init__(self, connection: GrpcConnection, stream: Stream, head: Head, identity: Authenticated | None) -> None:
        self._connection = connection
        self._stream = stream
        self.head = head
        self.identity = identity  # who the client is, where that is asked for
        self.peer, self.address = connection.peer, connection.address
        self.reader = MessageReader(connection.message_limit, connection.plain_limit)
        self.handler: StreamHandler | None = None
        self.began = False
        self.is_held = False  # the handler takes no more for now
        self.owed = 0  # bytes that came meanwhile, for which the client gets no credit yet

    def check_identity(self) -> None:
        """Raise `InputError` where the client is not any more who it was when the call began."""
        if self.identity is not None:
            self.identity = self._connection.identify(self.head)

    def begin(self, metadata: Sequence[tuple[str, str]] = ()) -> None:
        """Begin the answer, with metadata at its head; `send` does it without."""
        if not self.began:
            self.began = True
            block = b"".join([literal(name.encode(), value.encode()) for name, value in metadata])
            self._connection.send_headers(self._stream, (PACKED_HEAD if self.head.packs else HEAD) + block)

    def send(self, message: bytes) -> None:
        """Send a message."""
        self.begin()
        self._connection.send(self._stream, prefixed(message, packed=self.head.packs))

    def finish(self, status: Status) -> None:
        """End the call."""
        block = trailers(status) if self.began else whole_answer(status)
        self._connection.end(self._stream, block)

    def end(self, status: Status) -> None:
        """End the call at once: its handler hears that the client is lost."""
        if self.handler is not None:
            self.handler.lost()
        self.finish(status)

    def go_on(self) -> None:
        """Let more messages come, after `messages` has returned False."""
        self.is_held = False
        self._stream.touched = self.reader.began = time.monotonic()  # until now the client could not send more
        owed, self.owed = self.owed, 0
        if owed:
            self._connection.consumed(self._stream, owed)
        self._connection.read_on()

    def count_waiting(self, change: int) -> None:
        """Count bytes of whole messages that wait to be handled: where there are too many, nothing is read."""
        self._connection.count_waiting(change)

    @property
    def is_unread(self) -> bool:
        """Whether nothing is read from the connection, so that the client's windows do not come either."""
        return self._connection.is_unread

    @property
    def idle_since(self) -> float | None:
        """When the client last sent something; None where it is amid a message."""
        return None if self.reader.buffer else self._stream.touched

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were sent and that the client gives no window for."""
        return self._stream.pending_bytes
