"""Helpers around the protobuf `Event`: make one with id and time filled in, name its enums, read its typed data."""

from __future__ import annotations

import copyreg
import time
from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeAlias

from polku.event.v1 import event_pb2
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.ids import new_id

EventData: TypeAlias = (
    event_pb2.NetworkEventData
    | event_pb2.KernelEventData
    | event_pb2.ContainerEventData
    | event_pb2.K8sEventData
    | event_pb2.ProcessEventData
    | event_pb2.ResourceEventData
)


def _named(module: str, path: str) -> Any:
    return attrgetter(path)(import_module(module))


def _reduce_enum(enum: Any) -> tuple[Any, tuple[str, str]]:
    file = enum.DESCRIPTOR.file
    module = file.name.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"  # as protoc names it
    return _named, (module, enum.DESCRIPTOR.full_name.removeprefix(f"{file.package}."))


# Functions that are sent to actors name enums, and protobuf's own objects cannot be pickled.
copyreg.pickle(type(event_pb2.Severity), _reduce_enum)


def new_event(
    event_type: str,
    *,
    source: str = "",
    id: str = "",
    timestamp_unix_ns: int = 0,
    metadata: Mapping[str, str] | None = None,
    payload: bytes = b"",
    severity: Severity.ValueType = Severity.SEVERITY_INFO,
    outcome: Outcome.ValueType = Outcome.OUTCOME_UNSPECIFIED,
) -> Event:
    """Build an event; a missing id becomes a ULID and a missing timestamp becomes now (Unix nanoseconds)."""
    return Event(
        id=id or new_id(),
        timestamp_unix_ns=timestamp_unix_ns or time.time_ns(),
        source=source,
        event_type=event_type,
        metadata=dict(metadata or {}),
        payload=payload,
        severity=severity,
        outcome=outcome,
    )


def severity_name(event: Event) -> str:
    """Return the severity in lower case without its prefix (`info`), or the number where it is unknown."""
    return _enum_name(Severity, event.severity)


def outcome_name(event: Event) -> str:
    """Return the outcome in lower case without its prefix (`success`), or the number where it is unknown."""
    return _enum_name(Outcome, event.outcome)


def typed_data(event: Event) -> EventData | None:
    """Return the typed data message that the event carries, or None where it has only a payload."""
    which = event.WhichOneof("data")
    data: EventData | None = None if which is None else getattr(event, which)
    return data


def _enum_name(enum: type[Severity] | type[Outcome], number: int) -> str:
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else value.name.partition("_")[2].lower()
