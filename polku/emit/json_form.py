"""An event as JSON, field by field as the JsonIngestor reads it back."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from polku.event.v1.event_pb2 import Event, Outcome, Severity

_SEVERITIES = {value.number: value.name for value in Severity.DESCRIPTOR.values}
_OUTCOMES = {value.number: value.name for value in Outcome.DESCRIPTOR.values}


def event_fields(event: Event) -> dict[str, Any]:
    """Return the fields that an event has, in snake_case: enums by name, payload as base64, typed data by kind.

    An enum's number that has no name stays a number.
    """
    fields: dict[str, Any] = {
        "id": event.id,
        "timestamp_unix_ns": event.timestamp_unix_ns,
        "source": event.source,
        "event_type": event.event_type,
    }
    if metadata := event.metadata:
        fields["metadata"] = dict(metadata.items())  # half the time of asking the map for each of its keys
    if payload := event.payload:
        fields["payload"] = b64encode(payload).decode()
    if event.route_to:
        fields["route_to"] = list(event.route_to)
    if event.severity:
        fields["severity"] = _SEVERITIES.get(event.severity, event.severity)
    if event.outcome:
        fields["outcome"] = _OUTCOMES.get(event.outcome, event.outcome)
    kind = event.WhichOneof("data")
    if kind is not None:
        fields[kind] = data_fields(event, kind)
    return fields


def data_fields(event: Event, kind: str) -> dict[str, Any]:
    """Return the typed data of an event as JSON fields."""
    from google.protobuf import json_format

    return json_format.MessageToDict(getattr(event, kind), preserving_proto_field_name=True)
