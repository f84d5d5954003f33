"""The OpenTelemetry Collector, built of its own modules, in front of a pipeline and behind it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import Event, Filter, Hub, OtlpEmitter
from polku.otlp import log_record
from polku.otlp.signals import LOGS, METRICS, SIGNALS, TRACES
from tests.otlp.collector import Came, Collector
from tests.otlp.requests import logs, metrics, spans
from tests.support.ports import free_port

CONFIG = """
receivers:
  otlp/front: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{front}"}}}}}}
  otlp/back:
    protocols: {{grpc: {{endpoint: "127.0.0.1:{back}"}}, http: {{endpoint: "127.0.0.1:{back_http}"}}}}
exporters:
  otlp_grpc/polku:
    endpoint: "127.0.0.1:{polku}"
    tls: {{insecure: true}}
    compression: {compression}
    sending_queue: {{enabled: false}}
  otlp_http/polku:
    endpoint: "http://127.0.0.1:{polku_http}"
    encoding: {encoding}
    compression: {compression}
    sending_queue: {{enabled: false}}
  otlp_http/sink:
    endpoint: "http://127.0.0.1:{sink}"
    sending_queue: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
  pipelines:
"""
PIPELINES = """
    {signal}/front: {{receivers: [otlp/front], exporters: [{way}/polku]}}
    {signal}/back: {{receivers: [otlp/back], exporters: [otlp_http/sink]}}
"""


def run_with_log(command: list[str], path: Path) -> subprocess.Popen[bytes]:
    with path.open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


async def until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("way", "encoding", "compression"),
    [
        ("otlp_grpc", "proto", "gzip"),
        ("otlp_grpc", "proto", "zstd"),
        ("otlp_http", "proto", "zstd"),
        ("otlp_http", "json", "gzip"),
    ],
)
async def test_what_goes_through_a_collector_a_pipeline_and_a_collector_arrives(
    program: str, protocol: str, way: str, encoding: str, compression: str, tmp_path: Path
) -> None:
    front, back, back_http = (free_port() for _ in range(3))
    sink = Collector("http")
    await sink.start()
    emitter = OtlpEmitter(f"http://127.0.0.1:{back if protocol == 'grpc' else back_http}", protocol=protocol)

    def keep(event: Event) -> bool:
        return event.event_type != "otel.log" or log_record(event).body.string_value != "drop me"

    hub = Hub(runtime="inline").middleware(Filter(keep)).emitter(emitter).ack("delivered")
    async with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        ports = {"polku": pipeline.address, "polku_http": pipeline.http_address}
        numbers = {name: str(address).rpartition(":")[2] for name, address in ports.items()}
        config = CONFIG.format(
            front=front,
            back=back,
            back_http=back_http,
            sink=sink.port,
            encoding=encoding,
            compression=compression,
            **numbers,
        )
        config += "".join(PIPELINES.format(signal=signal.name, way=way) for signal in SIGNALS)
        (tmp_path / "config.yaml").write_text(config)
        command = [program, "--config", str(tmp_path / "config.yaml")]
        process = run_with_log(command, tmp_path / "log")
        try:
            await until_open(front, process)
            await until_open(back, process)
            bodies = {
                LOGS: logs(["a", "drop me", "b" * 2000], color="red"),
                TRACES: spans(["x", "!y"]),
                METRICS: metrics(["m"], points=3),
            }
            async with grpc.aio.insecure_channel(f"127.0.0.1:{front}") as channel:
                for signal, request in bodies.items():
                    call: Any = channel.unary_unary(signal.method, bytes, bytes)
                    assert await call(request.SerializeToString(), timeout=60) in (b"", b"\n\x00")
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
    await sink.stop()
    assert {came.signal for came in sink.taken} == set(SIGNALS), (tmp_path / "log").read_text()
    came = {one.signal: one for one in sink.taken}
    expected = logs(["a", "b" * 2000], color="red")
    scope = expected.resource_logs[0].scope_logs[0]
    scope.log_records[1].time_unix_nano += 1  # the third of those that were sent
    assert came[LOGS].message == expected
    for signal in (TRACES, METRICS):  # a Collector writes a scope where there was none
        assert came[signal].records == Came(signal, bodies[signal].SerializeToString(), {}).records
