"""Parse an `IngestEvent`, and admit the events that it brings."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from msgspec import Struct

from polku.batch.frames import read_request
from polku.codes import Code
from polku.errors import InputError
from polku.gateway.admission import Admission, admit_event, admit_events, read_payload
from polku.gateway.event_limits import HEAVY_BYTES, size_fault
from polku.gateway.large import LARGE_EVENTS, is_large
from polku.limits import Limits
from polku.v1.gateway_pb2 import IngestEvent


class Large(Struct, frozen=True):
    """A request with many events, serialised: they are admitted in pieces."""

    source: str
    cluster: str
    frames: Sequence[bytes]


def parse_request(message: bytes, limits: Limits) -> IngestEvent | Large:
    """Parse a serialised `IngestEvent`, unless it has many events; raises `InputError`."""
    try:
        if len(message) > 2 * min(limits.batch_events, LARGE_EVENTS):  # an event takes two bytes at least
            return _parse_long(message, limits)
        return IngestEvent.FromString(message)
    except DecodeError as error:
        reason = f"IngestEvent: not a valid message ({error}); strings must be UTF-8, fields as in gateway.proto"
        raise InputError(Code.MALFORMED, reason) from None


def _parse_long(message: bytes, limits: Limits) -> IngestEvent | Large:
    """Parse what may have many events, or one that has too many fields: that is known before they are decoded."""
    found = read_request(message)
    if found is None:  # a field appears twice, or is not known here
        whole = IngestEvent.FromString(message)
        frames = read_payload(whole.events.SerializeToString(), limits)
        return Large(whole.source, whole.cluster, frames) if is_large(len(frames), len(message)) else whole
    if found.which == "events":
        frames = read_payload(found.content, limits)
        if is_large(len(frames), len(message)):
            return Large(found.source, found.cluster, frames)
    if found.which == "event" and len(found.content) > HEAVY_BYTES:
        fault = size_fault(found.content, 0, limits)
        if fault is not None:
            raise InputError(fault.code, fault.message)
    return IngestEvent.FromString(message)


def admit_request(request: IngestEvent | Large, size: int, limits: Limits) -> Admission | None:
    """Admit the events of a request of `size` bytes; None where an ingestor has to read it first, or in pieces.

    Raises `InputError`.
    """
    if isinstance(request, Large):
        return None
    which = request.WhichOneof("payload")
    if which == "event":
        return admit_event(request.event, request.source, request.cluster, limits, size)
    if which == "events":
        return admit_events(list(request.events.events), request.source, request.cluster, limits, size=size)
    if which == "raw":
        return None
    raise InputError(Code.NO_PAYLOAD, "payload: none of `event`, `events` and `raw` is set; set one of them")
