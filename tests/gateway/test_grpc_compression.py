"""Messages of gRPC that are compressed, or wait: what they cost until they are taken, byte by byte."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from hpack import Decoder

from polku.gateway.grpc.calls import BatchMethod, StreamCall, StreamMethod
from polku.http2 import frames as f
from polku.http2.limits import ConnectionLimits
from polku.rpc.messages import Packed, unpack
from polku.rpc.status import StatusCode
from tests.buffer.parts import until
from tests.gateway.grpc_peer import PACKING, Client, Held, Server, message, packed
from tests.http2.peer import data, status_of


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
