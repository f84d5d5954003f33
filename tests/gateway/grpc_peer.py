"""A port of gRPC without a network, and a client that writes and reads its bytes."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence

from hpack import Encoder

from polku.gateway.grpc.calls import BatchMethod, CallContext, Method, StreamCall, StreamMethod, UnaryMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2 import frames as f
from polku.http2.limits import ConnectionLimits
from polku.rpc.status import Status, StatusCode
from tests.http2.peer import Frame, Transport, data, frames_in

LIMIT = 1_000


class Held:
    """A stream's handler that takes one message and no more until it is released."""

    def __init__(self, call: StreamCall) -> None:
        self.call = call
        self.taken: list[bytes] = []

    def messages(self, messages: list[bytes]) -> bool:
        self.taken += messages
        return False

    def ended(self) -> None:
        self.call.finish(Status(StatusCode.OK))

    def drained(self) -> None:
        pass

    def leave(self, status: Status) -> None:
        self.call.finish(status)

    def lost(self) -> None:
        pass


class Server:
    """A server with a method of each kind, and the heads that its connections share."""

    def __init__(self, limits: ConnectionLimits | None = None, *, addresses: int = 0) -> None:
        self.limits = limits or ConnectionLimits()
        self.streams: list[Held] = []
        self.contexts: list[CallContext] = []
        self.methods: dict[bytes, Method] = {
            b"/echo": BatchMethod(self.echo),
            b"/unary": UnaryMethod(self.unary),
            b"/stream": StreamMethod(self.stream),
        }
        places = Places("connections", total=2, each=2 + addresses, idle_seconds=5)
        self.port = GrpcPort(self.methods, self.limits, message_limit=LIMIT, places=places)

    def echo(self, connection: GrpcConnection, calls: list[tuple[int, bytes]]) -> None:
        for number, message in calls:
            connection.respond(number, message)

    async def unary(self, message: bytes, context: CallContext) -> bytes:
        self.contexts.append(context)
        return message

    def stream(self, call: StreamCall) -> Held:
        self.streams.append(Held(call))
        return self.streams[-1]


class Client:
    """One connection to it."""

    def __init__(self, server: Server) -> None:
        self.transport = Transport()
        self.connection = GrpcConnection(server.port)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.encoder = Encoder()
        self.connection.data_received(f.PREFACE + f.settings({}))
        self.read()

    def call(
        self,
        number: int,
        path: str,
        body: bytes,
        extra: Sequence[tuple[str, str]] = (),
        *,
        end: bool = True,
        content_type: str = "application/grpc",
    ) -> None:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", content_type)]
        block = self.encoder.encode(
            [(name.encode("latin-1"), value.encode("latin-1")) for name, value in [*fields, *extra]]
        )
        self.connection.data_received(f.frame(f.HEADERS, f.END_HEADERS, number, block) + data(number, body, end=end))

    def is_read(self) -> bool:
        return self.transport.is_read

    def read(self) -> list[Frame]:
        self.connection._outbox.flush()
        return frames_in(self.transport)


def message(body: bytes) -> bytes:
    return struct.pack(">BI", 0, len(body)) + body


def packed(body: bytes) -> bytes:
    """Return a compressed message."""
    content = gzip.compress(body)
    return struct.pack(">BI", 1, len(content)) + content


PACKING = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity, deflate, gzip")]
