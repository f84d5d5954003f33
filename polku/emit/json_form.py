"""An event as JSON, field by field as the JsonIngestor reads it back."""

from __future__ import annotations

import base64
from typing import Any

from polku.event.v1.event_pb2 import Event, Outcome, Severity


def event_fields(event: Event) -> dict[str, Any]:
    """Return the fields that an event has, in snake_case: enums by name, payload as base64, typed data by kind."""
    fields: dict[str, Any] = {
        "id": event.id,
        "timestamp_unix_ns": event.timestamp_unix_ns,
        "source": event.source,
        "event_type": event.event_type,
    }
    if event.metadata:
        fields["metadata"] = dict(event.metadata)
    if event.payload:
        fields["payload"] = base64.b64encode(event.payload).decode()
    if event.route_to:
        fields["route_to"] = list(event.route_to)
    if event.severity:
        fields["severity"] = enum_name(Severity, event.severity)
    if event.outcome:
        fields["outcome"] = enum_name(Outcome, event.outcome)
    kind = event.WhichOneof("data")
    if kind is not None:
        fields[kind] = data_fields(event, kind)
    return fields


def data_fields(event: Event, kind: str) -> dict[str, Any]:
    """Return the typed data of an event as JSON fields."""
    from google.protobuf import json_format

    return json_format.MessageToDict(getattr(event, kind), preserving_proto_field_name=True)


def enum_name(enum: Any, number: int) -> str | int:
    """Return the full name of an enum's value, or the number where it is unknown."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return number if value is None else str(value.name)
