"""Streams and connections of the native gRPC server: how many, of what protocol, idle, slow, or not read."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hpack import Encoder
from msgspec.structs import replace

from polku import Hub, Limits, Pipeline
from polku.aio import loop_thread
from polku.gateway import places
from polku.gateway.grpc import server as grpc_server
from polku.gateway.grpc import stream_events
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.grpc.server import connection_limits
from polku.http2 import frames as f
from polku.http2.limits import ConnectionLimits
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import IngestBatch
from tests.gateway.native.conftest import STREAM, large
from tests.support.recorder import Recorder


class Sender:
    """A client of one stream that keeps to its windows, and gives the server the one that it is told to."""

    def __init__(self, address: str, message: bytes) -> None:
        host, _, port = address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)))
        self.message = b"\0" + len(message).to_bytes(4, "big") + message
        fields = [(":method", "POST"), (":scheme", "http"), (":path", STREAM), ("content-type", "application/grpc")]
        head = f.frame(f.HEADERS, f.END_HEADERS, 1, Encoder().encode(fields))
        self.sock.sendall(f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 0}) + head)
        self.windows = {0: f.INITIAL_WINDOW, 1: 0}
        self.unread = b""
        self.sent = self.acked = 0

    def send_until_blocked(self, seconds: float) -> None:
        """Send messages one after the other until the server gives no credit for so long."""
        rest = self.message
        while True:
            size = min(len(rest), *self.windows.values(), 16_000)
            if size > 0:
                self.sock.sendall(f.frame(f.DATA, 0, 1, rest[:size]))
                self.sent += size
                self.windows = {number: window - size for number, window in self.windows.items()}
                rest = rest[size:] or self.message
            elif not self.read(seconds):
                return

    def read(self, seconds: float) -> bool:
        """Take what the server sends; return whether anything came in time."""
        self.sock.settimeout(seconds)
        try:
            self.unread += self.sock.recv(1 << 20)
        except TimeoutError:
            return False
        while len(self.unread) >= f.HEAD_BYTES:
            high, low, kind, flags, number = f.read_head(self.unread)
            stop = f.HEAD_BYTES + (high << 8 | low)
            if len(self.unread) < stop:
                break
            payload, self.unread = self.unread[f.HEAD_BYTES : stop], self.unread[stop:]
            if kind == f.WINDOW_UPDATE:
                self.windows[number] += int.from_bytes(payload, "big")
            elif kind == f.SETTINGS and not flags:
                self.windows[1] += dict(f.read_settings(payload))[f.INITIAL_WINDOW_SIZE]
                self.sock.sendall(f.frame(f.SETTINGS, f.ACK, 0))
            elif kind == f.DATA:
                self.acked += len(payload)
        return True


def test_a_client_that_does_not_read_its_acks_is_not_read_from(pipeline: Pipeline) -> None:
    message = large(1, 5_000).SerializeToString()
    client = Sender(str(pipeline.address), message)
    client.send_until_blocked(2)
    assert client.acked == 0
    most = ConnectionLimits().stream_window + 40 * len(message)  # 32 batches are read ahead
    assert len(message) < client.sent < most
    client.sock.sendall(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 24}) + f.window_update(0, 1 << 24))
    before = client.sent
    client.send_until_blocked(2)
    assert client.acked > 0
    assert client.sent > before
    client.sock.close()


def test_other_protocols_are_told_what_this_port_is(pipeline: Pipeline) -> None:
    connection = http.client.HTTPConnection(str(pipeline.address), timeout=30)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 400
    assert b"this port speaks gRPC over HTTP/2" in answer.read()
    host, _, port = str(pipeline.address).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")  # a TLS handshake begins
        assert sock.recv(100) == b""


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(streams=1), "1 streams are open; close some"),
        (Limits(address_streams=1), "1 streams are open from 127.0.0.1; close some"),
    ],
)
def test_one_stream_too_many_is_refused(limits: Limits, reason: str, tmp_path: Path) -> None:
    hub = Hub(runtime="inline").limits(limits).emitter(Recorder(tmp_path / "out"))
    release = threading.Event()

    def held() -> Iterator[IngestBatch]:
        yield large(1)
        release.wait(60)

    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        first: Any = stub.StreamEvents(held())
        assert next(first).event_ids
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.StreamEvents(iter([large(1)])))
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        release.set()
        assert list(first) == []
        assert len(list(stub.StreamEvents(iter([large(1)])))) == 1


@pytest.mark.parametrize(
    "pieces", [[b"GET / HTTP/1.1\r\n\r\n"], [b"P", b"OS", b"T /polku HTTP/1.1\r\n\r\n"], [b"PUT / "]]
)
async def test_a_client_of_http_1_is_told_what_this_port_is(pieces: list[bytes], tmp_path: Path) -> None:
    hub = Hub(runtime="inline").emitter(Recorder(tmp_path / "out"))
    async with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        host, _, port = str(pipeline.address).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"this port speaks gRPC over HTTP/2: send POST with content-type: application/grpc" in answer


def test_a_client_of_tls_on_a_plain_port_is_closed_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hub = Hub(runtime="inline").emitter(Recorder(tmp_path / "out"))
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        host, _, port = str(pipeline.address).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
    assert "a client of 127.0.0.1 speaks TLS, this port does not; give it a certificate" in caplog.text


def test_a_client_is_not_taken_for_gone_while_user_code_blocks_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(connection_limits(Limits()), keepalive_seconds=0.3, keepalive_timeout_seconds=0.3)
    monkeypatch.setattr(grpc_server, "connection_limits", lambda _: limits)
    monkeypatch.setattr(grpc_server, "_LOOK_SECONDS", 0.1)
    release = threading.Event()

    ask = GrpcConnection._ask_if_silent
    blocked: list[bool] = []
    ours, theirs = socket.socketpair()

    def ask_and_block(connection: GrpcConnection, now: float) -> None:
        ask(connection, now)
        if connection._pinged == now:  # its answer comes while user code blocks the loop, within the handling of a read
            ours.send(b"x")

    def read() -> None:
        theirs.recv(1)
        time.sleep(1.0)
        blocked.append(True)

    async def listen() -> None:
        asyncio.get_running_loop().add_reader(theirs, read)

    async def close() -> None:
        asyncio.get_running_loop().remove_reader(theirs)

    monkeypatch.setattr(GrpcConnection, "_ask_if_silent", ask_and_block)

    def held() -> Iterator[IngestBatch]:
        yield large(1)
        release.wait(60)
        yield large(1)

    hub = Hub(runtime="inline").emitter(Recorder(tmp_path / "out"))
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stream: Any = gateway_pb2_grpc.GatewayStub(channel).StreamEvents(held())
        assert next(stream).event_ids
        loop_thread.submit(listen()).result(30)
        deadline = time.monotonic() + 30
        while len(blocked) < 3 and stream.is_active():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        loop_thread.submit(close()).result(30)
        release.set()
        assert next(stream).event_ids
    ours.close()
    theirs.close()


def test_an_idle_stream_makes_room_for_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_events, "_MAKE_ROOM_SECONDS", 0.1)
    hub = Hub(runtime="inline").limits(Limits(streams=1)).emitter(Recorder(tmp_path / "out"))
    release = threading.Event()

    def held() -> Iterator[IngestBatch]:
        yield large(1)
        release.wait(60)

    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        first: Any = stub.StreamEvents(held())
        assert next(first).event_ids
        time.sleep(0.2)
        assert len(list(stub.StreamEvents(iter([large(1)])))) == 1
        with pytest.raises(grpc.RpcError) as ended:
            next(first)
        release.set()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "all places for streams are taken, and this one was idle" in str(ended.value.details())


def test_a_stream_that_brings_nothing_makes_room_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_UNUSED_SECONDS", 0.1)
    hub = Hub(runtime="inline").limits(Limits(streams=1)).emitter(Recorder(tmp_path / "out"))
    release = threading.Event()

    def silent() -> Iterator[IngestBatch]:
        release.wait(60)
        yield from ()

    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        deadline = time.monotonic() + 30
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        while code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # it came behind one of the others
            first: Any = stub.StreamEvents(silent())
            while first.is_active():
                assert time.monotonic() < deadline
                with contextlib.suppress(grpc.RpcError):
                    assert len(list(stub.StreamEvents(iter([large(1)])))) == 1
                time.sleep(0.05)
            code = first.code()
        release.set()
        assert code is grpc.StatusCode.UNAVAILABLE


def test_a_client_that_still_sends_can_read_why_its_connection_ends(pipeline: Pipeline) -> None:
    host, _, port = str(pipeline.address).rpartition(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(f.PREFACE + f.settings({}) + f.frame(f.DATA, 0, 1, b"x"))
        time.sleep(0.2)
        for _ in range(3):
            sock.sendall(f.frame(f.PING, 0, 0, bytes(8)) * 100)
            time.sleep(0.05)
        sock.settimeout(5)
        told = b""
        while part := sock.recv(65_536):
            told += part
    assert b"a frame on stream 1, which is idle" in told
