"""Requests of OTLP for tests, and a door to send them to."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from polku import Batch, Event, Hub, Pipeline
from polku.otlp.signals import LOGS, Signal

WAYS = ("grpc", "http")
NS = 1_700_000_000_000_000_000
TRACE, SPAN = bytes(range(16)), bytes(range(16, 24))


def logs(bodies: Iterable[str], service: str = "shop", **attributes: str) -> ExportLogsServiceRequest:
    """Return a request of one scope with a log record for each body."""
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add(schema_url="https://opentelemetry.io/schemas/1.30.0")
    resource.resource.attributes.add(key="service.name").value.string_value = service
    scope = resource.scope_logs.add()
    scope.scope.name = "tests"
    for number, body in enumerate(bodies):
        record = scope.log_records.add(time_unix_nano=NS + number, severity_number=9, trace_id=TRACE, span_id=SPAN)
        record.flags = 1
        record.body.string_value = body
        for key, value in attributes.items():
            record.attributes.add(key=key).value.string_value = value
    return request


def spans(names: Iterable[str], service: str = "shop") -> ExportTraceServiceRequest:
    """Return a request with a span for each name; those whose name begins with `!` have failed."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    scope = resource.scope_spans.add()
    for number, name in enumerate(names, 1):
        span = scope.spans.add(name=name, trace_id=TRACE, span_id=number.to_bytes(8, "big"), trace_state="a=b")
        span.start_time_unix_nano, span.end_time_unix_nano = NS, NS + 5
        span.status.code = Status.STATUS_CODE_ERROR if name.startswith("!") else Status.STATUS_CODE_OK
    return request


def metrics(names: Iterable[str], points: int = 2, service: str = "shop") -> ExportMetricsServiceRequest:
    """Return a request with a gauge for each name."""
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    scope = resource.scope_metrics.add()
    for name in names:
        metric = scope.metrics.add(name=name)
        for number in range(points):
            metric.gauge.data_points.add(time_unix_nano=NS + number, as_double=number)
    return request


class Answer(NamedTuple):
    """What a door said: a status of HTTP or gRPC, and the body or the call's details."""

    status: int
    body: bytes
    headers: Mapping[str, str | bytes]
    message: str = ""


class Door(NamedTuple):
    """A running pipeline, and what came out of it."""

    pipeline: Pipeline
    events: list[Event]

    def grpc(self, signal: Signal, body: bytes, metadata: Mapping[str, str] | None = None, **options: Any) -> Answer:
        """Call `Export`."""
        with grpc.insecure_channel(str(self.pipeline.address)) as channel:
            call: Any = channel.unary_unary(signal.method, bytes, bytes)
            try:
                answer, done = call.with_call(body, timeout=30, metadata=list((metadata or {}).items()), **options)
            except grpc.RpcError as error:
                failed: Any = error
                trailers = dict(failed.trailing_metadata() or ())
                return Answer(failed.code().value[0], b"", trailers, failed.details())
            return Answer(0, answer, dict(done.trailing_metadata() or ()))

    def http(
        self,
        signal: Signal,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "application/x-protobuf",
        method: str = "POST",
    ) -> Answer:
        """Post a request."""
        url = f"http://{self.pipeline.http_address}{signal.path}"
        fields = {"Content-Type": kind, **(headers or {})}
        request = urllib.request.Request(url, data=body if method == "POST" else None, headers=fields, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))


@contextmanager
def door(hub: Hub | None = None, **options: Any) -> Iterator[Door]:
    """Run a pipeline whose both ports are open."""
    events: list[Event] = []

    def keep(batch: Batch) -> None:
        events.extend(batch.events)

    hub = (hub or Hub(runtime="inline")).emitter(keep).ack("delivered")
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0", **options) as pipeline:
        yield Door(pipeline, events)


def send(place: Door, way: str, signal: Signal, body: bytes) -> Answer:
    """Send a request as protobuf over either way."""
    return place.grpc(signal, body) if way == "grpc" else place.http(signal, body)


def one_log(body: str = "hi") -> bytes:
    """Return a serialised request of one log record."""
    return logs([body]).SerializeToString()


__all__ = ["LOGS", "NS", "SPAN", "TRACE", "Answer", "Door", "door", "logs", "metrics", "one_log", "send", "spans"]


def retry_seconds(trailers: Any) -> float:
    """Return the delay of the `RetryInfo` in a call's details."""
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    return float(info.retry_delay.ToTimedelta().total_seconds())
