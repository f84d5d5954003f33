"""Check the `google.protobuf.Timestamp`s of an event's typed data.

A Timestamp has room for times that its own specification excludes, and that nothing can write as JSON: years before 1
and after 9999, and nanoseconds that are none. What such an event would break further on, it does not get to.
"""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor

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

# The tag of such a field, (number << 3 | 2) as a varint, ends with this byte, or with a zero where it is longer than it
# has to be. Most events without typed data have neither byte: 95 kB, 1,000 small ones, are searched for one in 1.2 µs.
_LAST_BYTES = {(_DATA[name].number << 3 | 2) >> 7 for name in _TIMES}
assert all(0 < byte < 128 for byte in _LAST_BYTES), "tags of two bytes"
_MARKS = (b"\0", *(bytes([byte]) for byte in sorted(_LAST_BYTES)))


def may_have_times(payload: bytes) -> bool:
    """Return whether any event of a serialised `EventPayload` can have a Timestamp."""
    return any(mark in payload for mark in _MARKS)


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
