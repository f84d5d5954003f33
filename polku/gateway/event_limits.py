"""Check the texts of a message and of an event: how long each is, and how many there are. `admission` refuses."""

from __future__ import annotations

from polku.batch.frames import count_fields
from polku.batch.receipt import Refusal
from polku.checks import shorten
from polku.codes import Code
from polku.errors import InputError
from polku.event.v1.event_pb2 import Event
from polku.limits import Limits
from polku.text import as_id

HEAVY_BYTES = 64 * 1024
"""An event that is smaller is decoded within 3 ms, whatever is in it."""

_OTHER_FIELDS = 100  # of an event: there are fourteen


def check_envelope(limits: Limits, source: str, cluster: str, format: str = "") -> None:
    """Raise `InputError` where what a message says of all of its events is too long: each of them would get a copy."""
    for name, text, limit in (
        ("source", source, limits.source_bytes),
        ("cluster", cluster, limits.cluster_bytes),
        ("format", format, limits.format_bytes),
    ):
        if 4 * len(text) > limit and (fault := _text_fault(name, text, limit)):
            raise InputError(Code.INVALID_EVENT, fault)


def size_fault(event: bytes, position: int, limits: Limits) -> Refusal | None:
    """Return the refusal of a serialised event with too many fields to be decoded; None for all but monsters.

    400,000 entries of metadata take 100 ms to decode, and nothing of it can be done in slices. Parsers take the last of
    fields that stand several times, so that ten times the limits are allowed here.
    """
    counts = count_fields(event, 10 * (limits.metadata_entries + limits.routes) + _OTHER_FIELDS)
    code, fault = Code.INVALID_EVENT, ""
    if counts.metadata > 10 * limits.metadata_entries:
        code = Code.METADATA_LIMIT
        fault = f"metadata has more than {counts.metadata - 1} entries, the limit is {limits.metadata_entries}"
    elif counts.routes > 10 * limits.routes:
        fault = f"route_to has more than {counts.routes - 1} entries, the limit is {limits.routes}"
    elif counts.fields > 10 * (limits.metadata_entries + limits.routes) + _OTHER_FIELDS:
        fault = f"it has more than {counts.fields - 1} fields"
    if not fault:
        return None
    return Refusal(as_id(counts.event_id), code, f"events[{position}].{fault}; send fewer", position=position)


def text_fault(event: Event, limits: Limits) -> str:
    """Return which text of an event is too long, its size and the fix; empty where none is."""
    # A character takes four bytes at most: so most texts need no more than a look at their length.
    event_id, source, kind = event.id, event.source, event.event_type
    if 4 * len(event_id) > limits.id_bytes and (fault := _text_fault("id", event_id, limits.id_bytes)):
        return fault
    if 4 * len(source) > limits.source_bytes and (fault := _text_fault("source", source, limits.source_bytes)):
        return fault
    if 4 * len(kind) > limits.event_type_bytes and (fault := _text_fault("event_type", kind, limits.event_type_bytes)):
        return fault
    routes = event.route_to
    if not routes:
        return ""
    if len(routes) > limits.routes:
        return f"route_to has {len(routes)} entries, the limit is {limits.routes}; name fewer, or none for all emitters"
    faults = (_text_fault(f"route_to[{at}]", name, limits.route_bytes) for at, name in enumerate(routes))
    return next(filter(None, faults), "")


def metadata_fault(event: Event, limits: Limits) -> str:
    """Return what is wrong with the size of an event's metadata, and the fix; empty where nothing is."""
    metadata = event.metadata
    if len(metadata) > limits.metadata_entries:
        return f"metadata has {len(metadata)} entries, the limit is {limits.metadata_entries}; send fewer"
    key_bytes, value_bytes = limits.metadata_key_bytes, limits.metadata_value_bytes
    for key, value in metadata.items():
        if 4 * len(key) > key_bytes and (size := _size(key)) > key_bytes:
            return f"metadata[{key[:40]!r}]: the key has {size} bytes, the limit is {key_bytes}; shorten it"
        if 4 * len(value) > value_bytes and (size := _size(value)) > value_bytes:
            return f"metadata[{key[:40]!r}]: the value has {size} bytes, the limit is {value_bytes}; shorten it"
    return ""


def _text_fault(name: str, text: str, limit: int) -> str:
    size = _size(text)
    return f"{name}={shorten(text)}: has {size} bytes, the limit is {limit}; shorten it" if size > limit else ""


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
