"""What functions of a pipeline use to look into events that are records of OTLP, and to change them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.otlp.signals import BY_EVENT_TYPE, LOGS, METRICS, TRACES, Signal, load
from polku.otlp.wire import Scope, Wrapper, split_one

if TYPE_CHECKING:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


def log_record(event: Event) -> LogRecord:
    """Return the log record of an `otel.log` event, decoded; raises `RecordError` for any other event."""
    record: LogRecord = _decoded(event, LOGS, "LogRecord")
    return record


def span(event: Event) -> Span:
    """Return the span of an `otel.span` event, decoded; raises `RecordError` for any other event."""
    record: Span = _decoded(event, TRACES, "Span")
    return record


def metric(event: Event) -> Metric:
    """Return the metric of an `otel.metric` event, decoded; raises `RecordError` for any other event."""
    record: Metric = _decoded(event, METRICS, "Metric")
    return record


def resource(event: Event) -> Resource:
    """Return the resource of an event that is a record of OTLP; raises `RecordError` for any other event."""
    head = _scope(event).resource
    kind = BY_EVENT_TYPE[event.event_type].messages
    name = {"logs": "ResourceLogs", "traces": "ResourceSpans", "metrics": "ResourceMetrics"}
    found: Resource = getattr(kind, name[BY_EVENT_TYPE[event.event_type].name]).FromString(head).resource
    return found


def attribute(event: Event, name: str) -> str | None:
    """Return an attribute of a log record or span as text, or of its resource where it has none; None: neither has it.

    It costs the decoding of the record: where it is needed often, name it in `OtlpIngestor(attributes=…)` and read the
    event's metadata.
    """
    from polku.otlp.values import as_text

    record: Any = log_record(event) if event.event_type == LOGS.event_type else span(event)
    for attributes in (record.attributes, resource(event).attributes):
        for one in attributes:
            if one.key == name:
                return as_text(one.value)
    return None


def set_record(event: Event, record: LogRecord | Span | Metric) -> None:
    """Put another record, or the decoded one after changes, into an event; its resource and scope stay as they came."""
    scope = _scope(event)
    event.payload = Wrapper(scope.resource, scope.scope).wrap(record.SerializeToString())


def _decoded(event: Event, signal: Signal, kind: str) -> Any:
    if event.event_type != signal.event_type:
        raise RecordError(f"event_type={event.event_type!r} is not {signal.event_type!r}", event_id=event.id)
    load("opentelemetry.proto.common.v1.common_pb2")
    content = _scope(event).records[0]
    try:
        return getattr(signal.messages, kind).FromString(content)
    except DecodeError as error:
        raise RecordError(f"payload: its record is malformed ({error})", event_id=event.id) from None


def _scope(event: Event) -> Scope:
    if event.event_type not in BY_EVENT_TYPE:
        known = ", ".join(BY_EVENT_TYPE)
        raise RecordError(f"event_type={event.event_type!r} is none of {known}", event_id=event.id)
    try:
        return split_one(event.payload)
    except DecodeError as error:
        raise RecordError(f"payload: not a record of OTLP ({error})", event_id=event.id) from None
