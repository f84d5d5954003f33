"""What an aggregate is made of: its payload by strategy, its other fields by what its events have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from enum import StrEnum

from google.protobuf.json_format import MessageToJson

from polku.event.v1.event_pb2 import Event
from polku.middleware.checks import json_fault

COUNT = "polku.aggregate.count"
FIRST = "polku.aggregate.first_unix_ns"
LAST = "polku.aggregate.last_unix_ns"
STRATEGY = "polku.aggregate.strategy"


class Strategy(StrEnum):
    """Say what the payload of an aggregate is made of."""

    JSON_ARRAY = "json_array"
    """A JSON array: each event's payload where that is JSON and all there is, else the whole event as JSON."""
    CONCAT = "concat"
    """The payloads, one right after the other; typed data is left out."""
    FIRST = "first"
    """The payload and typed data of the first event."""
    LAST = "last"
    """The payload and typed data of the last event."""


def combine(events: Sequence[Event], strategy: Strategy) -> Event:
    """Make one event of many; see `Aggregator` for its fields."""
    out = _FILL[strategy](events)
    out.id = derived_id(events, strategy)
    out.timestamp_unix_ns = events[0].timestamp_unix_ns
    out.source, out.event_type = events[0].source, events[0].event_type
    out.route_to[:] = events[0].route_to
    out.severity = max(event.severity for event in events)
    outcomes = {event.outcome for event in events}
    out.outcome = outcomes.pop() if len(outcomes) == 1 else Event().outcome
    out.metadata.clear()
    out.metadata.update(_common_metadata(events))
    times = [event.timestamp_unix_ns for event in events]
    out.metadata[COUNT] = str(len(events))
    out.metadata[FIRST], out.metadata[LAST] = str(min(times)), str(max(times))
    out.metadata[STRATEGY] = strategy
    return out


def derived_id(parts: Sequence[Event], strategy: Strategy) -> str:
    """Return a ULID with the time of the first part, whose other 80 bits are a digest of the parts' sources and ids.

    What is made again of the same parts, after a crash or a resend, thus has the same id, by which it can be told from
    something new, and ids sort by time as those of other events do.
    """
    from ulid import ULID

    digest = hashlib.blake2b(f"{strategy}\0".encode(), digest_size=10)
    for part in parts:
        for text in (part.source.encode(), part.id.encode()):
            digest.update(len(text).to_bytes(4, "big"))
            digest.update(text)
    milliseconds = min(max(parts[0].timestamp_unix_ns // 1_000_000, 0), 2**48 - 1)
    return str(ULID(milliseconds.to_bytes(6, "big") + digest.digest()))


def _common_metadata(events: Sequence[Event]) -> dict[str, str]:
    """Return the entries that all events have alike."""
    common = dict(events[0].metadata)
    for event in events[1:]:
        if not common:
            break
        metadata = event.metadata
        common = {key: value for key, value in common.items() if metadata.get(key) == value}
    return common


def _json_array(events: Sequence[Event]) -> Event:
    return Event(payload=b"[" + b",".join(map(_as_json, events)) + b"]")


def _as_json(event: Event) -> bytes:
    payload = event.payload
    if payload and event.WhichOneof("data") is None and not json_fault(payload):
        return payload
    return MessageToJson(event, preserving_proto_field_name=True, indent=None).encode()


def _copy(event: Event) -> Event:
    out = Event()
    out.CopyFrom(event)
    return out


_FILL: dict[Strategy, Callable[[Sequence[Event]], Event]] = {
    Strategy.JSON_ARRAY: _json_array,
    Strategy.CONCAT: lambda events: Event(payload=b"".join(event.payload for event in events)),
    Strategy.FIRST: lambda events: _copy(events[0]),
    Strategy.LAST: lambda events: _copy(events[-1]),
}
