"""What a test gives a pipeline: events, raw bytes, and pauses between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from polku.batch.frames import events_field, join_frames
from polku.checks import shorten
from polku.clock import Clock
from polku.event.v1.event_pb2 import Event
from polku.ids import new_id
from polku.v1.gateway_pb2 import IngestBatch, RawPayload


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for the ingestor of a source, as a client sends them."""

    data: bytes
    source: str
    format: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds that pass before what comes next is sent."""

    seconds: float


Given: TypeAlias = Event | Raw | Pause | Sequence[Event]
"""One event, several that come in one message, raw bytes, or a pause."""


class Message(NamedTuple):
    """A serialised `IngestBatch`, and the events that it has; none where it is raw bytes."""

    content: bytes
    events: tuple[Event, ...]
    source: str = ""


def read_given(given: Given | Iterable[Given]) -> list[Given]:
    """Return what a test gave as a list; raises `TypeError` for what is nothing of it."""
    items: list[Given] = [given] if isinstance(given, (Event, Raw, Pause)) else list(given)
    for item in items:
        if isinstance(item, (Event, Raw, Pause)):
            continue
        if not isinstance(item, Sequence) or not all(isinstance(event, Event) for event in item):
            raise TypeError(
                f"{shorten(item)} ({type(item).__name__}) is nothing that a pipeline is given; write an Event "
                "(`new_event(...)`), a list of Events for one message, Raw(data, source=...) or Pause(seconds)"
            )
    return items


def message_of(item: Event | Raw | Sequence[Event], source: str, clock: Clock) -> Message:
    """Return the message of an item; its events are copies that have an id and a time."""
    if isinstance(item, Raw):
        raw = RawPayload(data=item.data, format=item.format)
        batch = IngestBatch(source=item.source, cluster=item.cluster, raw=raw)
        return Message(batch.SerializeToString(), (), item.source)
    events = [_filled(event, clock) for event in ([item] if isinstance(item, Event) else item)]
    payload = join_frames([event.SerializeToString() for event in events])
    prefix = IngestBatch(source=source).SerializeToString()
    return Message(prefix + events_field(payload) + payload, tuple(events))


def _filled(event: Event, clock: Clock) -> Event:
    own = Event()
    own.CopyFrom(event)
    own.id = own.id or new_id()
    own.timestamp_unix_ns = own.timestamp_unix_ns or clock.time_ns()
    return own
