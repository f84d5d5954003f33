"""Parse an `IngestEvent`, and admit the events that it brings."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from polku.batch.frames import count_events
from polku.codes import Code
from polku.errors import InputError
from polku.gateway.admission import Admission, admit_event, admit_events, check_count
from polku.limits import Limits
from polku.v1.gateway_pb2 import IngestEvent


def parse_request(message: bytes, limits: Limits) -> IngestEvent:
    """Parse a serialised `IngestEvent`; raises `InputError`."""
    try:
        if len(message) > 2 * limits.batch_events:  # an event takes two bytes at least
            check_count(count_events(message), limits)
        return IngestEvent.FromString(message)
    except DecodeError as error:
        reason = f"IngestEvent: not a valid message ({error}); strings must be UTF-8, fields as in gateway.proto"
        raise InputError(Code.MALFORMED, reason) from None


def admit_request(request: IngestEvent, size: int, limits: Limits) -> Admission | None:
    """Admit the events of a request of `size` bytes; None where an ingestor has to read it first.

    Raises `InputError`.
    """
    which = request.WhichOneof("payload")
    if which == "event":
        return admit_event(request.event, request.source, request.cluster, limits, size)
    if which == "events":
        return admit_events(list(request.events.events), request.source, request.cluster, limits, size=size)
    if which == "raw":
        return None
    raise InputError(Code.NO_PAYLOAD, "payload: none of `event`, `events` and `raw` is set; set one of them")
