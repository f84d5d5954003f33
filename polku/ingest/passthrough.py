"""Events that are protobuf already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from google.protobuf.message import DecodeError

from polku.batch.frames import join_frames, split_frames
from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.v1.gateway_pb2 import EventPayload

_PIECE = 500  # events that are decoded together: a millisecond


@dataclass(frozen=True, slots=True)
class PassthroughIngestor:
    """Read one serialised `Event`, or an `EventPayload` of many.

    The format hints `event` and `payload` say which. Without one (or with `protobuf`) the bytes must tell, and nearly
    always do: both begin with field 1, an Event's id or a payload's first event, but a payload has no other field. So
    bytes with other fields are an Event, and several fields 1 are a payload. One field 1 alone is a payload of one
    event if it holds a message with an id, a source or a type, else an Event with nothing but an id.

    A malformed event of a payload is one error with its byte offset; the others pass. So are bytes in which no field
    is known, which some other format may well look like.
    """

    sources: ClassVar[tuple[str, ...]] = ("passthrough", "polku")
    takes_turns: ClassVar[bool] = True  # it keeps nothing, so that others may read between two events

    def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError]:
        """Yield the events, in order; never raises."""
        hint = context.format.lower()
        if hint == "payload" or (hint != "event" and _is_payload(data)):
            yield from _payload(data)
        else:
            yield _event(data, 0, "Event")


def _payload(data: bytes) -> Iterator[Event | RecordError]:
    try:
        frames = split_frames(data)
    except DecodeError as error:
        reason = f"EventPayload: not a valid message ({error}); send it again whole"
        yield RecordError(reason, code=Code.MALFORMED, offset=0)
        return
    if not frames and data:
        yield _unknown("EventPayload", 0)
    offset = 0
    for start in range(0, len(frames), _PIECE):
        piece = frames[start : start + _PIECE]
        events = _good(piece)
        if events is not None:
            yield from events
            continue
        for position, frame in enumerate(piece, start):
            offset = data.find(frame, offset)
            yield _event(frame, offset, f"events[{position}]")
            offset += len(frame)


def _good(frames: list[bytes]) -> list[Event] | None:
    """Decode serialised events together; None where something is wrong with one of them."""
    try:
        events = list(EventPayload.FromString(join_frames(frames)).events)
    except DecodeError:
        return None
    return events if all(map(Event.ByteSize, events)) else None


def _event(data: bytes, offset: int, what: str) -> Event | RecordError:
    try:
        event = Event.FromString(data)
    except DecodeError as error:
        reason = f"{what}: not a valid Event ({error}); strings must be UTF-8, fields as in event.proto"
        return RecordError(reason, code=Code.MALFORMED, offset=offset)
    return event if event.ListFields() else _unknown(what, offset)


def _unknown(what: str, offset: int) -> RecordError:
    reason = f"{what}: none of its fields is known; send an Event or an EventPayload as in event.proto"
    return RecordError(reason, code=Code.MALFORMED, offset=offset)


def _is_payload(data: bytes) -> bool:
    try:
        frames = split_frames(data)
    except DecodeError:
        return False
    if not frames or sum(map(_frame_bytes, map(len, frames))) != len(data):
        return False  # there are other fields
    return len(frames) > 1 or _is_message(frames[0]) or not _is_text(frames[0])


def _frame_bytes(size: int) -> int:
    """Return what an event of that many bytes takes in a payload."""
    return size + 2 + (size > 127) + (size > 16_383) + (size > 2_097_151)


def _is_message(frame: bytes) -> bool:
    """Return whether bytes are rather an event than an id; ids hold no control characters, messages nearly always."""
    try:
        event = Event.FromString(frame)
    except DecodeError:
        return False
    if not (event.id or event.source or event.event_type):
        return False
    size = len(frame)
    event.DiscardUnknownFields()
    return event.ByteSize() == size or any(byte < 0x20 for byte in frame)


def _is_text(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True
