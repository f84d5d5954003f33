"""gRPC over HTTP/2, byte by byte: what one call is given must not depend on another one, and costs have limits."""

from __future__ import annotations

import asyncio
import struct

import pytest

from polku.gateway.grpc.protocol import GrpcConnection
from polku.http2 import frames as f
from polku.http2.frames import ErrorCode
from polku.http2.limits import ConnectionLimits
from polku.rpc.status import StatusCode
from tests.gateway.grpc_peer import LIMIT, Client, Server, message
from tests.http2.peer import Transport, data, frames_in, status_of


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
