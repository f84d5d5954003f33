"""What the OpenTelemetry SDK of Python sends: a log record, a span and a metric."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def exporter(protocol: str, address: str, part: str, name: str, path: str) -> Any:
    """Return the exporter of one signal."""
    kind = getattr(import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{part}"), name)
    if protocol == "grpc":
        return kind(endpoint=f"http://{address}", insecure=True)
    return kind(endpoint=f"http://{address}/v1/{path}")


def main(protocol: str, address: str) -> None:
    """Send one of each."""
    resource = Resource.create({"service.name": "sdk"})
    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(
        BatchLogRecordProcessor(exporter(protocol, address, "_log_exporter", "OTLPLogExporter", "logs"))
    )
    spans = TracerProvider(resource=resource)
    spans.add_span_processor(
        BatchSpanProcessor(exporter(protocol, address, "trace_exporter", "OTLPSpanExporter", "traces"))
    )
    reader = PeriodicExportingMetricReader(
        exporter(protocol, address, "metric_exporter", "OTLPMetricExporter", "metrics")
    )
    metrics = MeterProvider(resource=resource, metric_readers=[reader])
    with spans.get_tracer("client").start_as_current_span("work") as span:
        record = LogRecord(
            timestamp=time.time_ns(),
            context=trace.set_span_in_context(span),
            severity_number=SeverityNumber.WARN,
            body="hello",
            attributes={"language": "python"},
        )
        logs.get_logger("client").emit(record)
    metrics.get_meter("client").create_counter("requests").add(3)
    logs.shutdown()
    spans.shutdown()
    metrics.shutdown()
    print("sent")


main(*sys.argv[1:])
