"""nginx as a proxy of gRPC in front of the gateway, for clients of grpcio and for a `GrpcEmitter`."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polku import Batch, Event, GrpcEmitter, Hub, Limits, Pipeline, RetryableError
from polku.clock import SystemClock
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.support.recorder import Recorder

CONFIG = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log warn;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} http2;
    client_max_body_size 0;
    location / {{
      grpc_pass grpc://{gateway};
      grpc_read_timeout 60s;
    }}
  }}
}}
"""


class Proxy:
    """nginx in front of one address."""

    def __init__(self, folder: Path, gateway: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.address = f"127.0.0.1:{taken.getsockname()[1]}"
        (folder / "nginx.conf").write_text(
            CONFIG.format(folder=folder, port=self.address.rpartition(":")[2], gateway=gateway)
        )
        self._process = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        )

    def wait(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", int(self.address.rpartition(":")[2]))):
                return
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture(params=["native", "grpcio"])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Iterator[Pipeline]:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    hub = Hub(runtime="inline").limits(Limits(message_bytes=4_000_000)).emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        yield pipeline


@pytest.fixture
def proxy(pipeline: Pipeline, tmp_path: Path) -> Iterator[Proxy]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    proxy = Proxy(tmp_path, str(pipeline.address))
    try:
        proxy.wait()
        yield proxy
    finally:
        proxy.close()


def event(event_id: str, size: int = 0) -> Event:
    return Event(id=event_id, event_type="t", payload=b"x" * size)


def test_calls_streams_and_health_go_through_a_proxy(proxy: Proxy, recorder: Recorder) -> None:
    with grpc.insecure_channel(proxy.address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        assert list(stub.SendEvent(IngestEvent(source="s", event=event("one")), timeout=30).event_ids) == ["one"]
        large = IngestEvent(source="s", event=event("large", 3_000_000))
        assert list(stub.SendEvent(large, timeout=30).event_ids) == ["large"]
        with pytest.raises(grpc.RpcError) as caught:
            stub.SendEvent(IngestEvent(source="s"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        batches = [
            IngestBatch(
                source="s", events=EventPayload(events=[event(f"{number}.{place}", 500) for place in range(20)])
            )
            for number in range(200)
        ]
        acks = [list(ack.event_ids) for ack in stub.StreamEvents(iter(batches), timeout=60)]
        assert acks == [[one.id for one in batch.events.events] for batch in batches]
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    assert len(recorder.wait_for(4_002)) == 4_002


def test_an_emitter_sends_through_a_proxy_and_keeps_the_order(proxy: Proxy, recorder: Recorder) -> None:
    async def send() -> None:
        running = GrpcEmitter(f"http://{proxy.address}").build(SystemClock())
        for number in range(100):
            async with asyncio.timeout(60):
                while True:
                    try:
                        batch = Batch.from_events([event(f"{number:03d}.{place}") for place in range(10)])
                        assert await running.emit(batch) == []
                        break
                    except RetryableError:
                        await asyncio.sleep(0.05)
        await running.close()

    asyncio.run(send())
    ids = [one.id for one in recorder.wait_for(1_000)]
    assert ids == [f"{number:03d}.{place}" for number in range(100) for place in range(10)]


def test_a_gateway_that_is_not_there_is_unavailable(proxy: Proxy, pipeline: Pipeline) -> None:
    pipeline.stop()
    with grpc.insecure_channel(proxy.address) as channel, pytest.raises(grpc.RpcError) as caught:
        gateway_pb2_grpc.GatewayStub(channel).SendEvent(IngestEvent(source="s", event=event("one")), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
