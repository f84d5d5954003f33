"""How an `Event` becomes an `AhtiEvent`: pure, total, the same for everybody who speaks to AHTI.

Whatever an event holds, it can be mapped: numbers that cannot be read or do not fit count as absent, unknown enums
have their substitutes, and what has no place of its own stays visible in the labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from polku.ahti.v1.events_pb2 import AhtiEvent, AhtiEventBatch, EventType
from polku.ahti.v1.events_pb2 import Outcome as AhtiOutcome
from polku.ahti.v1.events_pb2 import Severity as AhtiSeverity
from polku.batch.batch import Batch
from polku.emit.ahti.entities import IDENTIFYING, add_entities
from polku.event.v1.event_pb2 import Event
from polku.tracing.context import KEY, is_traceparent

_SECOND = 1_000_000_000
_MOST = 2**64 - 1

_OF_RESOURCE = {
    "deployment": EventType.EVENT_TYPE_DEPLOYMENT,
    "replicaset": EventType.EVENT_TYPE_DEPLOYMENT,
    "statefulset": EventType.EVENT_TYPE_DEPLOYMENT,
    "daemonset": EventType.EVENT_TYPE_DEPLOYMENT,
    "pod": EventType.EVENT_TYPE_POD,
    "service": EventType.EVENT_TYPE_SERVICE,
    "endpoint": EventType.EVENT_TYPE_SERVICE,
    "configmap": EventType.EVENT_TYPE_CONFIG,
    "secret": EventType.EVENT_TYPE_CONFIG,
    "pvc": EventType.EVENT_TYPE_VOLUME,
    "pv": EventType.EVENT_TYPE_VOLUME,
    "node": EventType.EVENT_TYPE_CLUSTER,
    "event": EventType.EVENT_TYPE_HEALTH,
}
_NAMED = (
    "network",
    "kernel",
    "container",
    "pod",
    "deployment",
    "service",
    "health",
    "performance",
    "resource",
    "signal",
)
_OF_NAME = {name: EventType.Value(f"EVENT_TYPE_{name.upper()}") for name in (*_NAMED, "resource", "signal")}
_COPIED = frozenset({"trace_id", "span_id", "parent_span_id", "namespace"})
_TELLING = _COPIED | {"cluster", "cluster_id", "duration_us", "duration_ms", KEY} | IDENTIFYING
_NO_TYPE = EventType.EVENT_TYPE_UNSPECIFIED
_INFO, _SEVERITIES = AhtiSeverity.SEVERITY_INFO, frozenset[int](AhtiSeverity.values())
_UNKNOWN, _OUTCOMES = AhtiOutcome.OUTCOME_UNKNOWN, frozenset[int](AhtiOutcome.values())


def ahti_event(event: Event) -> AhtiEvent:
    """Return the AHTI form of an event; raises for none."""
    mapped = AhtiEvent()
    map_into(mapped, event)
    return mapped


def ahti_batch(batch: Batch) -> AhtiEventBatch:
    """Return the AHTI form of a batch: its events in order, one message of `StreamEvents`."""
    message = AhtiEventBatch()
    add = message.events.add
    for event in batch.events:
        map_into(add(), event)
    return message


def map_into(mapped: Any, event: Event) -> None:
    """Write the AHTI form of an event into an empty `AhtiEvent`."""
    mapped.id = event.id
    mapped.source = event.source
    when = mapped.timestamp
    when.seconds, when.nanos = divmod(event.timestamp_unix_ns, _SECOND)
    mapped.type, mapped.subtype = read_type(event.event_type)
    severity, outcome = event.severity, event.outcome
    mapped.severity = severity if severity in _SEVERITIES else _INFO
    mapped.outcome = outcome if outcome in _OUTCOMES else _UNKNOWN
    kind = event.WhichOneof("data")
    if kind is not None:  # the six messages have the same numbers on both sides
        data = getattr(mapped, kind)
        data.SetInParent()
        data.MergeFromString(getattr(event, kind).SerializeToString())
    metadata, labels = event.metadata, mapped.labels
    for name in metadata:
        labels[name] = metadata[name]
    if kind is not None or not _TELLING.isdisjoint(metadata):
        _map_meaning(mapped, event, dict(metadata))


def read_type(event_type: str) -> tuple[EventType.ValueType, str]:
    """Return the type and subtype; what AHTI has no type for keeps its whole name as the subtype."""
    first, _, rest = event_type.partition(".")
    if first == "k8s" and rest:
        return _OF_RESOURCE.get(rest.partition(".")[0], _NO_TYPE), rest
    known = _OF_NAME.get(first)
    return (_NO_TYPE, event_type) if known is None else (known, rest)


def _map_meaning(mapped: Any, event: Event, metadata: Mapping[str, str]) -> None:
    """Write what is read out of metadata and typed data; most events have neither, and are not asked."""
    for name in _COPIED & metadata.keys():
        setattr(mapped, name, metadata[name])
    if not {"trace_id", "span_id"} & metadata.keys() and is_traceparent(parent := metadata.get(KEY, "")):
        _, mapped.trace_id, mapped.span_id, _ = parent.split("-")
    cluster = metadata.get("cluster_id") or metadata.get("cluster")
    if cluster:
        mapped.cluster = cluster
    if duration := _duration_us(event, metadata):
        mapped.duration_us = duration
    add_entities(mapped, event, metadata)


def _duration_us(event: Event, metadata: Mapping[str, str]) -> int:
    for name, factor in (("duration_us", 1), ("duration_ms", 1000)):
        text = metadata.get(name)
        found = None if text is None else _microseconds(_number(text), factor)
        if found is not None:
            return found
    latency = event.network.latency_ms if event.HasField("network") else 0.0
    return (_microseconds(latency, 1000) or 0) if latency > 0 else 0


def _number(text: str) -> float:
    """Return the number that a text is; NaN where it is none."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:  # no number, or more digits than Python reads
        return math.nan


def _microseconds(number: float, factor: int) -> int | None:
    """Return a time in microseconds; None where it is no finite number of at least 0 or does not fit."""
    if not 0 <= number <= _MOST:
        return None
    micros = round(number * factor)
    return micros if micros <= _MOST else None
