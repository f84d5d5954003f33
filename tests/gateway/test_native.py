"""What the native gRPC server does besides what `test_server` tries on every server; the client is grpcio's."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hpack import Decoder, Encoder

from polku import Event, Hub, Limits, Pipeline
from polku.aio import loop_thread
from polku.gateway import places
from polku.gateway.grpc import server as grpc_server
from polku.gateway.grpc import stream_events
from polku.gateway.grpc.answers import trailers
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.grpc.server import NativeServer, connection_limits
from polku.http2 import frames as f
from polku.http2.limits import ConnectionLimits
from polku.rpc.status import Status
from polku.v1 import gateway_pb2, gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.support.recorder import Recorder

SEND, STREAM = "/polku.v1.Gateway/SendEvent", "/polku.v1.Gateway/StreamEvents"


@pytest.fixture(autouse=True)
def door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", "native")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    with Hub(runtime="inline").emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


@pytest.fixture
def channel(pipeline: Pipeline) -> Iterator[Any]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(str(pipeline.address), options) as channel:
        yield channel


def large(size: int, count: int = 1) -> IngestBatch:
    events = [Event(id=f"{number}", event_type="large", payload=b"x" * size) for number in range(count)]
    return IngestBatch(source="s", events=EventPayload(events=events))


def test_compressed_messages_are_read_and_bombs_are_not(channel: Any) -> None:
    stub = gateway_pb2_grpc.GatewayStub(channel)
    event = IngestEvent(event=Event(id="packed", payload=b"x" * 100_000))
    assert list(stub.SendEvent(event, compression=grpc.Compression.Gzip).event_ids) == ["packed"]
    call = channel.unary_unary(SEND)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\0" * 100_000_000, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as caught:
        call(b"x" * 10_000, compression=grpc.Compression.Deflate)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "use identity, gzip or zstd" in str(caught.value.details())


def test_messages_larger_than_every_window_pass_in_both_directions(channel: Any, recorder: Recorder) -> None:
    stub = gateway_pb2_grpc.GatewayStub(channel)
    acks = list(stub.StreamEvents(iter([large(1_000_000, 3), large(10, 10_000), large(1, 1)]), timeout=60))
    assert [len(ack.event_ids) for ack in acks] == [3, 10_000, 1]
    recorder.wait_for(10_004)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_comes_before_a_message_that_is_too_large_gets_its_acks(
    pipeline: Pipeline, recorder: Recorder, at_once: bool
) -> None:
    host, _, port = str(pipeline.address).rpartition(":")
    fields = [(":method", "POST"), (":scheme", "http"), (":path", STREAM), ("content-type", "application/grpc")]
    good = [
        IngestBatch(source="s", events=EventPayload(events=[Event(id=name, event_type="t")])).SerializeToString()
        for name in "abc"
    ]
    wire = [b"\0" + len(message).to_bytes(4, "big") + message for message in good]
    wire.append(b"\0" + (1 << 30).to_bytes(4, "big") + b"the first bytes of a gigabyte")
    recorder.hold()
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        head = f.frame(f.HEADERS, f.END_HEADERS, 1, Encoder().encode(fields))
        parts = [f.PREFACE, f.settings({}), head, *(f.frame(f.DATA, 0, 1, message) for message in wire)]
        for part in [b"".join(parts)] if at_once else parts:
            sock.sendall(part)
        recorder.release()
        came = b""
        while b"TOO_LARGE" not in came:
            received = sock.recv(65_536)
            assert received, came
            came += received
    assert [came.count(b"\x0a\x01" + name) for name in (b"a", b"b", b"c")] == [1, 1, 1]
    assert [event.id for event in recorder.wait_for(3)] == ["a", "b", "c"]


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


def test_a_deadline_ends_a_slow_call(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = channel.unary_unary("/polku.v1.Gateway/Health")

    async def slow(self: Any, request: Any, context: Any) -> Any:
        await asyncio.sleep(30)

    monkeypatch.setattr(NativeServer, "_answer_health", slow)
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="n")
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as other:
        slowly: Any = other
        with pytest.raises(grpc.RpcError) as caught:
            slowly.unary_unary("/polku.v1.Gateway/Health")(b"", timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert gateway_pb2.HealthResponse.FromString(call(b"", timeout=30)).healthy


def test_health_is_told_at_once_and_when_it_changes(pipeline: Pipeline) -> None:
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest
        status = health_pb2.HealthCheckResponse
        assert stub.Check(check(service="polku.v1.Gateway")).status == status.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(check(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        other: Any = stub.Watch(check(service="nobody"))
        assert next(iter(other)).status == status.SERVICE_UNKNOWN
        watch: Any = stub.Watch(check(service=""))
        assert next(watch).status == status.SERVING
        stopping = threading.Thread(target=pipeline.stop, args=(5,))
        stopping.start()
        assert next(watch).status == status.NOT_SERVING
        watch.cancel()
        stopping.join()


def test_reflection_describes_every_service(channel: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"polku.v1.Gateway", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= services
    file = database.FindFileContainingSymbol("polku.v1.Gateway")
    assert file.service[0].name == "Gateway"
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("polku.v1.Nothing")


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


def test_an_unknown_method_is_named(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/polku.v1.Gateway/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "/polku.v1.Gateway/Nothing" in str(caught.value.details())


def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    address = f"unix:{tmp_path / 'grpc.sock'}"
    with Hub(runtime="inline").emitter(recorder).start(grpc_addr=address), grpc.insecure_channel(address) as channel:
        ack = gateway_pb2_grpc.GatewayStub(channel).SendEvent(IngestEvent(event=Event(id="1")), timeout=30)
    assert list(ack.event_ids) == ["1"]


def test_one_stream_too_many_is_refused(tmp_path: Path) -> None:
    hub = Hub(runtime="inline").limits(Limits(streams=1)).emitter(Recorder(tmp_path / "out"))
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
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
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


@pytest.mark.parametrize("text", ["plain", "100 % sure, ä and \n"])
def test_messages_of_a_status_survive_the_header(text: str) -> None:

    fields = dict(Decoder().decode(trailers(Status(3, text)), raw=True))
    assert fields[b"grpc-status"] == b"3"
    assert unquote(fields[b"grpc-message"].decode()) == text.replace("\n", "\\n")


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
