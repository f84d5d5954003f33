"""A trace goes on outside: through HTTP and gRPC to other gateways, and by OTLP to a collector."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from polku import Batch, Event, GrpcEmitter, Hub, WebhookEmitter, new_event
from polku.tracing.context import is_traceparent, with_traceparent
from tests.support.server import Server, polku
from tests.tracing.spans import PARENT, TRACE, InMemory, id_of, parent_of


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


class Kept:
    """An emitter that keeps what it gets."""

    name = "kept"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, batch: Batch) -> None:
        self.events += batch.events


@pytest.mark.parametrize("way", ["grpc", "grpcio", "http"])
def test_a_second_gateway_goes_on_with_the_trace(way: str) -> None:
    first, second, kept = InMemory(), InMemory(), Kept()
    ports = {"grpc_addr": "127.0.0.1:0", "http_addr": "127.0.0.1:0"}
    with Hub(runtime="inline").traces(second).emitter(kept).start(**ports) as behind:
        emitter: object = WebhookEmitter(f"http://{behind.http_address}/v1/events", name="next")
        if way != "http":
            kind = "native" if way == "grpc" else "grpcio"
            emitter = GrpcEmitter(str(behind.address), name="next", client=kind)  # type: ignore[arg-type]
        with Hub(runtime="inline").traces(first).emitter(emitter).start() as pipeline:
            pipeline.sender().send(new_event("order", source="shop", metadata={"k": "v"}))
            wait_for(lambda: len(second.named("emit")) == 1)
    (emit,), (intake,) = first.named("emit"), second.named("intake")
    assert parent_of(intake) == id_of(emit)
    (event,) = kept.events
    assert event.metadata["k"] == "v"
    assert ("traceparent" in event.metadata) == (way != "http")


def test_an_event_keeps_the_trace_that_it_has() -> None:
    events = [new_event("a", metadata={"traceparent": PARENT, "k": "v"}), new_event("b"), new_event("traceparent")]
    own = f"00-{TRACE}-00000000000000aa-01"
    batch = Batch.from_events(events).traced(f"{own},{PARENT}")
    traced = with_traceparent(batch)
    assert [event.metadata["traceparent"] for event in traced.events] == [PARENT, own, own]
    assert traced.ids == batch.ids
    untraced = batch.traced("")
    assert with_traceparent(untraced) is untraced


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (PARENT, True),
        (PARENT.upper(), False),
        (f"{PARENT}-later", False),
        (f"01{PARENT[2:]}", True),
        ("", False),
        (f"ff{PARENT[2:]}", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"{PARENT}\n", False),
    ],
)
def test_only_what_the_standard_allows_is_a_traceparent(text: str, is_one: bool) -> None:
    assert is_traceparent(text) is is_one


class Collector(ThreadingHTTPServer):
    """What takes OTLP over HTTP."""

    def __init__(self) -> None:
        requests: list[tuple[str, ExportTraceServiceRequest]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = requests


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_spans_are_exported_by_otlp(collector: Collector, tmp_path: Path) -> None:
    variables = {
        "POLKU_TRACES": "otlp",
        "POLKU_RUNTIME": "inline",
        "POLKU_GRPC_ADDR": "127.0.0.1:0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_SERVICE_NAME": "shop",
    }
    server = Server(tmp_path, "serve", **variables)
    try:
        entry = f"traceparent={PARENT}"
        assert polku("send", "--to", server.address, "--type", "order", "--metadata", entry).returncode == 0
        server.wait_for(server.out, "order")
    finally:
        assert server.stop() == 0
    paths = {path for path, _ in collector.requests}
    resources = [resource for _, request in collector.requests for resource in request.resource_spans]
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert paths == {"/v1/traces"}
    assert [span.name for span in sorted(spans, key=lambda span: span.start_time_unix_nano)] == [
        "intake",
        "emit stdout",
    ]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    attributes = {one.key: one.value.string_value for one in resources[0].resource.attributes}
    assert attributes["service.name"] == "shop"
    assert attributes["service.version"]


def test_a_wrong_way_is_named() -> None:
    done = polku("serve", POLKU_TRACES="jaeger")
    assert done.returncode == 2
    assert "POLKU_TRACES='jaeger': choose one of off, otlp" in done.stderr
