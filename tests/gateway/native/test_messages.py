"""Messages, services and statuses of the native gRPC server; `tests/gateway/grpc` has what both servers do."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hpack import Decoder, Encoder

from polku import Event, Hub, Pipeline
from polku.aio import loop_thread
from polku.gateway.grpc.answers import trailers
from polku.gateway.grpc.server import NativeServer
from polku.http2 import frames as f
from polku.rpc.messages import prefixed
from polku.rpc.status import Status
from polku.v1 import gateway_pb2, gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.gateway.native.conftest import SEND, STREAM, large
from tests.support.recorder import Recorder


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


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection_answer(channel: Any, version: str) -> None:
    """Their messages are the same; clients ask for v1 first, and some for v1alpha alone."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="polku.v1.Gateway.SendEvent"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="polku.v1.Ack.event_ids"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="polku.v1.Nothing"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="polku.v1.Gateway.Nothing"),
    ]
    listed, method, field, *unknown = call(iter(asked), timeout=30)
    assert "polku.v1.Gateway" in {service.name for service in listed.list_services_response.service}
    assert method.file_descriptor_response == field.file_descriptor_response
    assert method.file_descriptor_response.file_descriptor_proto
    assert [one.error_response.error_code for one in unknown] == [grpc.StatusCode.NOT_FOUND.value[0]] * 2


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


@pytest.mark.parametrize("text", ["plain", "100 % sure, ä and \n"])
def test_messages_of_a_status_survive_the_header(text: str) -> None:

    fields = dict(Decoder().decode(trailers(Status(3, text)), raw=True))
    assert fields[b"grpc-status"] == b"3"
    assert unquote(fields[b"grpc-message"].decode()) == text.replace("\n", "\\n")


def test_calls_and_messages_that_come_together_make_no_task_each(pipeline: Pipeline, recorder: Recorder) -> None:
    """Not of 400 calls, nor of 400 messages on one stream: parts of a pipeline have tasks, each for many of them."""
    host, _, port = str(pipeline.address).rpartition(":")
    kind = ("content-type", "application/grpc")
    call, stream = (
        Encoder().encode([(":method", "POST"), (":scheme", "http"), (":path", path), kind]) for path in (SEND, STREAM)
    )
    made: list[str] = []

    def make(running: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(getattr(work, "__qualname__", type(work).__name__))
        return asyncio.Task(work, loop=running, **options)

    events = [Event(id=f"e{number}", event_type="t", source="s", timestamp_unix_ns=1) for number in range(800)]
    calls = [prefixed(IngestEvent(event=event).SerializeToString(), packed=False) for event in events[:400]]
    wire = [f.PREFACE, f.settings({})]
    for number, message in enumerate(calls):
        wire.append(f.frame(f.HEADERS, f.END_HEADERS, 2 * number + 1, call))
        wire.append(f.frame(f.DATA, f.END_STREAM, 2 * number + 1, message))
    wire.append(f.frame(f.HEADERS, f.END_HEADERS, 801, stream))
    for event in events[400:]:
        batch = IngestBatch(source="s", events=EventPayload(events=[event])).SerializeToString()
        wire.append(f.frame(f.DATA, 0, 801, prefixed(batch, packed=False)))
    running = loop_thread.loop()
    running.call_soon_threadsafe(running.set_task_factory, make)
    try:
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            sock.sendall(b"".join(wire))
            assert len(recorder.wait_for(800)) == 800
    finally:
        running.call_soon_threadsafe(running.set_task_factory, None)
    assert len(made) < 100, Counter(made)
