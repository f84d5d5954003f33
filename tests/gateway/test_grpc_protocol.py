"""gRPC over HTTP/2, byte by byte: what one call is given must not depend on another one, and costs have limits."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Sequence

import pytest
from hpack import Decoder, Encoder

from polku.gateway.grpc.calls import BatchMethod, CallContext, Method, StreamCall, StreamMethod, UnaryMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2 import frames as f
from polku.http2.frames import ErrorCode
from polku.http2.limits import ConnectionLimits
from polku.rpc.messages import Packed, unpack
from polku.rpc.status import Status, StatusCode
from tests.buffer.parts import until
from tests.http2.peer import Frame, Transport, data, frames_in, status_of

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


async def test_a_deadline_that_is_none_is_refused_to_that_call_alone() -> None:
    server = Server()
    client, other = Client(server), Client(server)
    client.call(1, "/echo", message(b"a"), [("grpc-timeout", "soon")])
    assert status_of(client.read())[1] == StatusCode.INVALID_ARGUMENT
    other.call(1, "/echo", message(b"b"), [("grpc-timeout", "1S")])
    client.call(3, "/echo", message(b"c"))
    assert (status_of(other.read()), status_of(client.read())) == ({1: 0}, {3: 0})


@pytest.mark.parametrize("length", ["9" * 19, "9" * 5_000])
async def test_a_length_that_is_too_long_to_be_one_ends_that_call_alone(length: str) -> None:
    client = Client(Server())
    client.call(1, "/echo", message(b"a"), [("content-length", length)])
    assert [(frame.kind, frame.number) for frame in client.read()] == [(f.RST_STREAM, 1)]
    client.call(3, "/echo", message(b"c"))
    assert status_of(client.read()) == {3: 0}


@pytest.mark.parametrize(
    "extra",
    [
        [("x-own", "a\r\ngrpc-status: 0")],
        [("x-own", "a\0b")],
        [("traceparent", "a\nb")],
        [("x own", "a")],
        [("x\0own", "a")],
        [("x\xff", "a")],
        [("", "a")],
        [("content-length", "6"), ("content-length", "7")],
    ],
)
async def test_fields_that_http_2_does_not_allow_end_that_call_alone(extra: list[tuple[str, str]]) -> None:
    client = Client(Server())
    client.call(1, "/echo", message(b"a"), extra)
    assert [(frame.kind, frame.number, frame.code) for frame in client.read()] == [
        (f.RST_STREAM, 1, ErrorCode.PROTOCOL_ERROR)
    ]
    client.call(3, "/echo", message(b"c"), [("content-length", "6"), ("content-length", "6"), ("x-own", "\xe4 b")])
    assert status_of(client.read()) == {3: 0}


@pytest.mark.parametrize(
    "extra", [("x own", "a"), ("x-own", "a\nb"), ("connection", "close"), ("Up", "a"), (":path", "a")]
)
async def test_trailers_that_http_2_does_not_allow_end_that_call_alone(extra: tuple[str, str]) -> None:
    client = Client(Server())
    client.call(1, "/echo", message(b"a"), end=False)
    client.connection.data_received(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, client.encoder.encode([extra])))
    assert [(frame.kind, frame.number, frame.code) for frame in client.read()] == [
        (f.RST_STREAM, 1, ErrorCode.PROTOCOL_ERROR)
    ]
    client.call(3, "/echo", message(b"c"))
    assert status_of(client.read()) == {3: 0}


@pytest.mark.parametrize("kind", ["-web", "-web+proto", "-web-text", "x"])
async def test_what_is_not_quite_grpc_is_told_so_and_its_message_not_taken(kind: str) -> None:
    client = Client(Server())
    client.call(1, "/echo", message(b"a"), content_type=f"application/grpc{kind}")
    frames = client.read()
    assert b"415" in frames[0].payload
    text = b"".join(frame.payload for frame in frames if frame.kind == f.DATA)
    assert f"content-type: application/grpc (this is POST with application/grpc{kind})".encode() in text


async def test_json_is_told_to_be_protobuf() -> None:
    client = Client(Server())
    client.call(1, "/echo", message(b"a"), content_type="application/grpc+json")
    ((_, code),) = status_of(frames := client.read()).items()
    assert code == StatusCode.UNIMPLEMENTED
    assert b"application/grpc+json is not supported; send protobuf, as application/grpc" in frames[0].payload


@pytest.mark.parametrize("kind", ["", "+proto", "+own", ";charset=utf-8", "; a=b"])
async def test_every_way_to_say_grpc_is_understood(kind: str) -> None:
    client = Client(Server())
    client.call(1, "/echo", message(b"a"), content_type=f"application/grpc{kind}")
    assert status_of(client.read()) == {1: 0}


@pytest.mark.parametrize(("flag", "encoding"), [(2, "identity"), (0x80, "gzip"), (255, "zstd"), (1, "identity")])
@pytest.mark.parametrize("path", ["/echo", "/stream"])
async def test_a_flag_of_a_message_that_has_no_meaning_is_named(flag: int, encoding: str, path: str) -> None:
    client = Client(Server())
    client.call(1, path, struct.pack(">BI", flag, 1) + b"a", [("grpc-encoding", encoding)])
    frames = client.read()
    assert status_of(frames) == {1: StatusCode.INTERNAL}
    reason = "its flag says compressed, and" if flag == 1 else f"its flag is {flag}; write 0"
    assert reason.encode() in b"".join(frame.payload for frame in frames)


async def test_what_varies_with_each_call_is_not_given_to_another() -> None:
    server = Server()
    client = Client(server)
    for number, trace in ((1, "first"), (3, "second")):
        client.call(number, "/unary", message(b"a"), [("traceparent", trace), ("x-own", "same")])
        await asyncio.sleep(0)
    assert [dict(context.invocation_metadata())["traceparent"] for context in server.contexts] == ["first", "second"]


async def test_a_client_that_is_held_up_is_not_blamed_for_half_a_message() -> None:
    server = Server()
    client = Client(server)
    client.call(1, "/stream", message(b"whole") + message(b"half")[:-2], end=False)
    later = client.connection.streams[1].touched + 1_000
    client.connection.check_times(later)
    assert client.read() == []
    server.streams[0].call.go_on()
    client.connection.check_times(client.connection.streams[1].touched + 59)
    assert client.read() == []
    client.connection.check_times(client.connection.streams[1].touched + 61)
    assert status_of(client.read()) == {1: StatusCode.DEADLINE_EXCEEDED}


async def test_a_message_that_drips_in_is_ended_after_its_time() -> None:
    server = Server(ConnectionLimits(message_seconds=60, whole_message_seconds=300))
    client = Client(server)
    client.call(1, "/stream", message(b"x" * 50)[:10], end=False)
    client.call(3, "/echo", message(b"x" * 50)[:10], end=False)
    stream = client.connection.streams[1]
    began = stream.app.reader.began
    for _ in range(4):
        client.connection.data_received(data(1, b"x") + data(3, b"x"))
    for each in client.connection.streams.values():
        each.touched = began + 290
    client.connection.check_times(began + 299)
    assert status_of(client.read()) == {}
    client.connection.check_times(began + 301)
    frames = client.read()
    assert status_of(frames) == {1: StatusCode.DEADLINE_EXCEEDED, 3: StatusCode.DEADLINE_EXCEEDED}
    assert any(b"takes more than 300 s" in frame.payload for frame in frames)


async def test_a_client_without_credit_is_not_blamed_for_a_long_message() -> None:
    server = Server(ConnectionLimits(connection_window=70_000))
    client = Client(server)
    client.call(1, "/stream", message(b"x") * 10_000 + message(b"half")[:-1], end=False)
    assert not client.connection.may_send
    reader = client.connection.streams[1].app.reader
    client.connection.check_times(reader.began + 1_000)
    assert client.read() == []
    server.streams[0].call.go_on()
    client.connection.streams[1].touched = reader.began + 290
    client.connection.check_times(reader.began + 299)
    assert status_of(client.read()) == {}


async def test_a_connection_too_many_is_told_why() -> None:
    server = Server()
    first, second = Client(server), Client(server)
    transport = Transport()
    GrpcConnection(server.port).connection_made(transport)  # type: ignore[arg-type]
    settings, _, goaway = frames_in(transport)
    assert (settings.kind, goaway.kind, goaway.code) == (f.SETTINGS, f.GOAWAY, f.ErrorCode.ENHANCE_YOUR_CALM)
    assert b"2 connections are open; close some" in goaway.payload
    assert transport.is_closing
    assert not first.transport.is_closing
    second.connection.connection_lost(None)
    assert not Client(server).transport.is_closing


async def test_an_idle_connection_makes_room_and_is_told_so() -> None:
    server = Server(addresses=1)
    idle, busy = Client(server), Client(server)
    busy.call(1, "/stream", message(b"a"), end=False)
    idle.connection._touched -= 1_000
    busy.connection._touched -= 2_000
    busy.read()
    new = Client(server)
    (goaway,) = [frame for frame in idle.read() if frame.kind == f.GOAWAY]
    assert goaway.code is f.ErrorCode.NO_ERROR
    assert b"this one was idle" in goaway.payload
    assert not new.transport.is_closing
    assert not busy.transport.is_closing


async def test_unfinished_messages_of_one_address_have_a_limit() -> None:
    server = Server(ConnectionLimits(unfinished=2_100, address_unfinished=2_500, port_unfinished=9_000))
    first, second = Client(server), Client(server)
    first.call(1, "/stream", message(b"x" * LIMIT)[:-1], end=False)
    second.call(1, "/stream", message(b"x" * LIMIT)[:-1], end=False)
    second.call(3, "/stream", message(b"x" * LIMIT)[:-1], end=False)
    frames = second.read()
    assert status_of(frames) == {3: StatusCode.RESOURCE_EXHAUSTED}
    assert any(b"take more than 2500 bytes from one address" in frame.payload for frame in frames)
    for client in (first, second):
        client.connection.connection_lost(None)
    assert len(server.port.unfinished) == 0


async def test_unfinished_messages_of_one_client_have_a_limit() -> None:
    server = Server(ConnectionLimits(unfinished=2_000))
    client = Client(server)
    for number in range(1, 9, 2):
        client.call(number, "/stream", message(b"x" * LIMIT)[:-1], end=False)
    refused = status_of(client.read())
    assert list(refused.values()) == [StatusCode.RESOURCE_EXHAUSTED] * 3
    client.connection.data_received(f.rst_stream(1, f.ErrorCode.CANCEL))
    assert client.connection.unfinished == 0


def packed(body: bytes) -> bytes:
    """Return a compressed message."""
    content = gzip.compress(body)
    return struct.pack(">BI", 1, len(content)) + content


PACKING = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity, deflate, gzip")]


@pytest.mark.parametrize("path", ["/echo", "/unary", "/loud"])
async def test_who_sends_gzip_and_reads_it_is_answered_so(path: str) -> None:
    server = Server()
    server.methods[b"/loud"] = StreamMethod(Loud)
    client, large = Client(server), b"large " * 150
    client.call(1, path, packed(large), PACKING)
    await asyncio.sleep(0)
    fields, answer = answered(client)
    assert (b"grpc-encoding", b"gzip") in fields
    assert (answer[0], gzip.decompress(answer[5:])) == (1, large)
    client.call(3, path, packed(b"small"), PACKING)
    await asyncio.sleep(0)
    assert answered(client)[1] == message(b"small")


@pytest.mark.parametrize("path", ["/echo", "/unary", "/loud"])
@pytest.mark.parametrize("extra", [PACKING[:1], PACKING[1:], []])
async def test_who_does_not_is_not(path: str, extra: list[tuple[str, str]]) -> None:
    server = Server()
    server.methods[b"/loud"] = StreamMethod(Loud)
    client, large = Client(server), b"large " * 150
    client.call(1, path, message(large), extra)
    await asyncio.sleep(0)
    fields, answer = answered(client)
    assert answer == message(large)
    assert b"grpc-encoding" not in dict(fields)


class Loud(Held):
    """A stream's handler that answers each message with itself."""

    def messages(self, messages: list[bytes]) -> bool:
        for one in messages:
            self.call.send(one)
        return True


def answered(client: Client) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the first fields of an answer, and its body."""
    frames = client.read()
    fields = Decoder().decode(next(frame.payload for frame in frames if frame.kind == f.HEADERS), raw=True)
    return [(bytes(name), bytes(value)) for name, value in fields], b"".join(
        frame.payload for frame in frames if frame.kind == f.DATA
    )


class Waiting(Held):
    """A stream's handler whose messages wait until it takes them."""

    def __init__(self, call: StreamCall) -> None:
        super().__init__(call)
        call.reader.keeps_packed = True

    def messages(self, messages: list[bytes]) -> bool:
        self.taken += messages
        self.call.count_waiting(sum(map(len, messages)))
        return False

    def take(self) -> None:
        size = sum(map(len, self.taken))
        self.taken.clear()
        self.call.count_waiting(-size)
        self.call.go_on()


def waiting(server: Server) -> list[Waiting]:
    """Add a method whose messages wait; return the list of its calls."""
    handlers: list[Waiting] = []

    def open_call(call: StreamCall) -> Waiting:
        handlers.append(Waiting(call))
        return handlers[-1]

    server.methods[b"/wait"] = StreamMethod(open_call)
    return handlers


async def test_where_too_much_waits_connections_are_not_read_until_theirs_is_taken() -> None:
    server = Server(ConnectionLimits(address_unfinished=1_000, port_unfinished=1_000))
    handlers = waiting(server)
    first, second = Client(server), Client(server)
    first.call(1, "/wait", message(b"x" * 600), end=False)
    assert first.is_read()
    second.call(1, "/wait", message(b"x" * 600), end=False)
    assert (first.is_read(), second.is_read()) == (True, False)
    first.connection.data_received(data(1, message(b"x" * 10), end=False))
    assert not first.is_read()
    first.connection.check_times(first.connection._touched + 1_000)  # it is not the peer that is silent
    assert not first.transport.is_closing
    handlers[0].take()
    assert first.is_read()
    handlers[1].take()
    assert second.is_read()
    assert len(server.port.waiting) == 0


async def test_a_part_of_a_message_that_comes_while_its_stream_is_held_is_not_refused() -> None:
    server = Server(ConnectionLimits(unfinished=700))
    handlers = waiting(server)
    client = Client(server)
    client.call(1, "/wait", message(b"x" * 50) + message(b"y" * 900)[:600], end=False)
    client.connection.data_received(data(1, message(b"y" * 900)[600:800], end=False))
    assert not client.is_read()
    handlers[0].take()
    assert client.is_read()
    client.connection.data_received(data(1, message(b"y" * 900)[800:], end=False))
    assert handlers[0].taken == [b"y" * 900]


async def test_compressed_messages_wait_as_they_came() -> None:
    server = Server()
    handlers = waiting(server)
    client = Client(server)
    client.call(1, "/wait", packed(bytes(100_000)), PACKING, end=False)
    (kept,) = handlers[0].taken
    assert isinstance(kept, Packed)
    assert len(kept) < 1_000
    assert unpack(kept, 100_000) == bytes(100_000)
    assert unpack(kept, 99_998) == bytes(99_999)


async def test_compressed_calls_of_one_read_are_handed_over_before_they_take_much_memory() -> None:
    server = Server()
    server.port.plain_limit = 1 << 20
    together: list[int] = []
    server.methods[b"/count"] = BatchMethod(lambda connection, calls: together.append(len(calls)))
    client = Client(server)
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/count"), ("content-type", "application/grpc")]
    body = packed(bytes(600_000))
    sent = b"".join(
        f.frame(f.HEADERS, f.END_HEADERS, number, client.encoder.encode([*fields, *PACKING]))
        + data(number, body, end=True)
        for number in range(1, 12, 2)
    )
    client.connection.data_received(sent)
    assert together == []
    await until(lambda: len(together) == 6)
    assert together == [1] * 6  # each is decompressed in turns with others


async def test_a_compressed_call_over_the_limit_is_refused_before_it_is_whole() -> None:
    server = Server()
    server.port.plain_limit = 100_000
    client = Client(server)
    client.call(1, "/echo", packed(bytes(300_000)), PACKING)
    assert status_of(client.read())[1] == StatusCode.RESOURCE_EXHAUSTED
