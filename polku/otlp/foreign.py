"""Events of any other origin as log records, by OpenTelemetry's semantic conventions.

| Event | LogRecord |
|---|---|
| `source`, metadata `cluster` | `service.name` and `k8s.cluster.name` of the resource |
| `id` | attribute `log.record.uid` |
| `timestamp_unix_ns`; now | `time_unix_nano`; `observed_time_unix_nano` |
| `event_type` | `event_name` |
| `severity` | `severity_number` 5, 9, 13, 17 or 21, and `severity_text` |
| `outcome` | attribute `event.outcome` |
| metadata `traceparent` | trace id, span id and flags |
| all other metadata | attributes |
| `payload` | the body, as a string where it is UTF-8, else as bytes |
| typed data, where there is no payload | the body, as JSON |
"""

from __future__ import annotations

import re
import time
from functools import cache

import msgspec

from polku.emit.json_form import data_fields
from polku.event.v1.event_pb2 import Event, Severity
from polku.events import outcome_name
from polku.otlp.signals import LOGS
from polku.version import __version__

PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_SEVERITIES = {
    Severity.SEVERITY_DEBUG: (5, "DEBUG"),
    Severity.SEVERITY_INFO: (9, "INFO"),
    Severity.SEVERITY_WARNING: (13, "WARN"),
    Severity.SEVERITY_ERROR: (17, "ERROR"),
    Severity.SEVERITY_CRITICAL: (21, "FATAL"),
}
_LEFT_OUT = frozenset(("cluster",))
_LEFT_OUT_OF_TRACES = _LEFT_OUT | {"traceparent"}


def foreign_resource(event: Event) -> bytes:
    """Return the resource of an event's log record: what stands in a ResourceLogs besides its scopes."""
    return _resource(event.source, event.metadata.get("cluster", ""))


@cache
def foreign_scope() -> bytes:
    """Return the scope of such log records: what stands in a ScopeLogs besides them."""
    scope = LOGS.messages.ScopeLogs()
    scope.scope.name, scope.scope.version = "polku", __version__
    content: bytes = scope.SerializeToString()
    return content


def _resource(source: str, cluster: str) -> bytes:
    resource = LOGS.messages.ResourceLogs()
    for key, value in (("service.name", source), ("k8s.cluster.name", cluster)):
        if value:
            resource.resource.attributes.add(key=key).value.string_value = value
    content: bytes = resource.SerializeToString()
    return content


def foreign_record(event: Event) -> bytes:
    """Return the serialised log record of an event; raises where it cannot be written."""
    record = LOGS.messages.LogRecord(
        time_unix_nano=max(0, event.timestamp_unix_ns),
        observed_time_unix_nano=time.time_ns(),
    )
    if event.severity in _SEVERITIES:
        record.severity_number, record.severity_text = _SEVERITIES[event.severity]
    attributes = {"log.record.uid": event.id}
    if event.outcome:
        attributes["event.outcome"] = outcome_name(event)
    parent = PARENT.fullmatch(event.metadata.get("traceparent", ""))
    left_out = _LEFT_OUT if parent is None else _LEFT_OUT_OF_TRACES
    attributes |= {key: value for key, value in event.metadata.items() if key not in left_out}
    if hasattr(record, "event_name"):  # of version 1.5 of the protocol
        record.event_name = event.event_type
    else:
        attributes["event.name"] = event.event_type
    for key, value in attributes.items():
        record.attributes.add(key=key).value.string_value = value
    if parent is not None:
        record.trace_id, record.span_id = bytes.fromhex(parent[1]), bytes.fromhex(parent[2])
        record.flags = int(parent[3], 16)
    _set_body(record.body, event)
    content: bytes = record.SerializeToString()
    return content


def _set_body(body: object, event: Event) -> None:
    payload = event.payload
    kind = event.WhichOneof("data")
    if payload:
        try:
            body.string_value = payload.decode()  # type: ignore[attr-defined] # a generated message
        except UnicodeDecodeError:
            body.bytes_value = payload  # type: ignore[attr-defined]
    elif kind is not None:
        body.string_value = msgspec.json.encode({kind: data_fields(event, kind)}).decode()  # type: ignore[attr-defined]
