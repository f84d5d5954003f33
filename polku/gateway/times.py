"""Check the `google.protobuf.Timestamp`s of an event's typed data.

A Timestamp has room for times that its own specification excludes, and that nothing can write as JSON: years before 1
and after 9999, and nanoseconds that are none. What such an event would break further on, it does not get to.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller

from google.protobuf.descriptor import FieldDescriptor

from polku.batch.frames import has_timed_data
from polku.event.v1.event_pb2 import Event

FIRST, LAST = -62_135_596_800, 253_402_300_799
"""The seconds of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z (google/protobuf/timestamp.proto)."""

_NANOS = 1_000_000_000
_TIMESTAMP = "google.protobuf.Timestamp"


def _names_of_times(field: FieldDescriptor) -> tuple[str, ...]:
    fields = field.message_type.fields if field.message_type is not None else ()
    return tuple(f.name for f in fields if f.message_type is not None and f.message_type.full_name == _TIMESTAMP)


_DATA = {field.name: field for field in Event.DESCRIPTOR.oneofs_by_name["data"].fields}
_TIMES = {name: times for name, field in _DATA.items() if (times := _names_of_times(field))}

# The tag of such a field, (number << 3 | 2) as a varint, is two bytes or, written longer than it has to be, more.
_FIRST = sorted({bytes([(_DATA[name].number << 3 | 2) & 127 | 128]) for name in _TIMES})
_SMALL = 400  # bytes of an event, on an average: more of them cost more to read again than to ask it

_KIND = methodcaller("WhichOneof", "data")


def may_have_times(payload: bytes, events: Sequence[Event]) -> bool:
    """Return whether any event of a serialised `EventPayload`, whose events these are, can have a Timestamp.

    To search the bytes for what such data begins with costs 2 ns an event, to read them again 50, to ask every event
    120. That one byte is often there by chance: as one of the upper bytes of `timestamp_unix_ns` in each event for an
    hour.
    """
    if not any(first in payload for first in _FIRST):
        return False
    if len(payload) <= _SMALL * len(events):
        return has_timed_data(payload)
    return not _TIMES.keys().isdisjoint(map(_KIND, events))


def time_fault(event: Event) -> str:
    """Return the field that is no valid time, its value and the fix; empty where there is none."""
    data = event.WhichOneof("data")
    if data not in _TIMES:
        return ""
    typed = getattr(event, data)
    for name in _TIMES[data]:
        if not typed.HasField(name):
            continue
        time = getattr(typed, name)
        if not FIRST <= time.seconds <= LAST:
            fix = f"must be from {FIRST} to {LAST} (years 1 to 9999): send seconds since 1970, not milliseconds"
            return f"{data}.{name}.seconds={time.seconds}: {fix}"
        if not 0 <= time.nanos < _NANOS:
            return f"{data}.{name}.nanos={time.nanos}: must be from 0 to {_NANOS - 1}"
    return ""
