"""Events that are protobuf already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from google.protobuf.message import DecodeError

from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.v1.gateway_pb2 import EventPayload
from polku.views import split_frames


@dataclass(frozen=True, slots=True)
class PassthroughIngestor:
    """Read one serialised `Event` or a serialised `EventPayload`.

    The format hints `event` and `payload` say which; without one it is read as an EventPayload if that leaves no byte
    unexplained and every event has a type or an id, else as an Event. A malformed event of a payload is one error;
    the others pass.
    """

    sources: ClassVar[tuple[str, ...]] = ("passthrough", "polku")

    def ingest(self, data: bytes, context: IngestContext) -> list[Event | RecordError]:
        """Return the events."""
        if context.format == "event":
            return [_event(data, 0)]
        if context.format == "payload" or _is_payload(data):
            return _payload(data)
        return [_event(data, 0)]


def _payload(data: bytes) -> list[Event | RecordError]:
    try:
        return list(EventPayload.FromString(data).events)
    except DecodeError as error:
        try:
            frames = split_frames(data)
        except DecodeError:
            return [RecordError(f"not a valid EventPayload ({error})", code=Code.MALFORMED, offset=0)]
        return [_event(frame, position) for position, frame in enumerate(frames)]


def _event(data: bytes, position: int) -> Event | RecordError:
    try:
        return Event.FromString(data)
    except DecodeError as error:
        return RecordError(f"events[{position}]: not a valid Event ({error})", code=Code.MALFORMED)


def _is_payload(data: bytes) -> bool:
    try:
        payload = EventPayload.FromString(data)
    except DecodeError:
        # A payload with one malformed event still starts like one: its field 1 would be an id that is no text.
        return _has_frames_only(data) and not _is_event(data)
    if not payload.events or (payload.SerializeToString() != data and _is_event(data)):
        return False
    return all(event.event_type or event.id for event in payload.events)


def _has_frames_only(data: bytes) -> bool:
    try:
        frames = split_frames(data)
    except DecodeError:
        return False
    return sum(map(len, frames)) + 2 * len(frames) <= len(data) <= sum(map(len, frames)) + 6 * len(frames)


def _is_event(data: bytes) -> bool:
    try:
        Event.FromString(data)
    except DecodeError:
        return False
    return True
