"""From a Kafka record to what goes into the pipeline: content, place, id, time and metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

from polku.contracts import Pulled
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest.cloudevents_reading import event_from_attributes
from polku.ingest.json_fields import FieldError
from polku.kafka import fields
from polku.kafka.encoding import (
    APPENDED,
    LATEST,
    RECORD_TYPE,
    TOMBSTONE_TYPE,
    EventEncoder,
    Known,
    RecordEncoder,
)
from polku.kafka.fields import MAX_KEY_BYTES, Field, Headers, headers_text, key_metadata

_new_pulled: Callable[[tuple[object, ...]], Pulled] = partial(tuple.__new__, Pulled)  # a third of what a call costs


class Decode(StrEnum):
    """Say what the values are."""

    INGESTOR = "ingestor"
    """Bytes for the ingestor of the source."""
    EVENT = "event"
    """A serialised Event each, as `KafkaEmitter(value="protobuf")` sends them."""
    JSON = "json"
    """JSON, as the JsonIngestor reads it."""
    CLOUDEVENTS = "cloudevents"
    """CloudEvents, in structured or binary mode of their Kafka binding."""
    RECORD = "record"
    """Bytes that become the payload; all the other fields become metadata."""


class Reader:
    """Read records; `skipped` counts those without a value, `keys_left_out` keys that are too long for metadata."""

    def __init__(self, decode: Decode, headers: Sequence[str], kept: Sequence[Field], *, tombstones: bool) -> None:
        self._chosen = frozenset(headers)
        self._kept = frozenset(kept)
        self._keeps_key = Field.KEY in self._kept  # once: the hash of such a name is a call of Python's
        self._keeps_more = bool(self._kept - {Field.KEY})
        self._keeps_time, self._keeps_headers = Field.TIMESTAMP in self._kept, Field.HEADERS in self._kept
        self._places = [(name, part) for field, name, part in _PLACE if field in self._kept]
        self._tombstones = tombstones
        self._whole_key = decode is Decode.RECORD
        contents: dict[Decode, Callable[[bytes, Any], Event | bytes | RecordError]] = {
            Decode.RECORD: _payload,
            Decode.CLOUDEVENTS: _cloud_event,
        }
        self._content = contents.get(decode, _value)
        self._encoder = _ENCODERS.get(decode) if not any(name.startswith("kafka.") for name in headers) else None
        self._known = Known()
        self._takes_empty = decode is Decode.INGESTOR
        self.skipped = self.keys_left_out = 0

    def read(self, message: Any) -> Pulled | None:
        """Return a record for the pipeline; None for one without a value, where that is no event."""
        value = message.value()
        if value is None and not (self._tombstones or self._takes_empty):
            self.skipped += 1
            return None
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        kind, milliseconds = message.timestamp()
        headers = message.headers()
        metadata: dict[str, str] = {}
        if headers:
            metadata = {name: _text(value) for name, value in headers if name in self._chosen}
        if self._keeps_key and (key := message.key()) is not None:
            self._keep_key(key, metadata)
        if self._keeps_more:
            self._keep(metadata, (topic, partition, offset), (kind, milliseconds), headers)
        content = self._content(value, headers) if value is not None or not self._tombstones else _tombstone(metadata)
        place, name = f"topic {topic}, partition {partition}, offset {offset}", f"{topic}-{partition}-{offset}"
        time_ns = milliseconds * 1_000_000 if kind and milliseconds <= LATEST else 0
        return _new_pulled((content, place, name, time_ns, metadata))

    def encoder(self, place: tuple[str, int], source: str, cluster: str) -> RecordEncoder | None:
        """Return what reads the records of a partition many at a time, where that can be done."""
        if self._encoder is None or (cluster and "cluster" in self._chosen):
            return None
        names = {"source": source, "cluster": cluster}
        return self._encoder(place, self._known, self.read, chosen=self._chosen, kept=self._kept, **names)

    def _keep_key(self, key: bytes, metadata: dict[str, str]) -> None:
        if len(key) <= MAX_KEY_BYTES or self._whole_key:
            metadata.update(key_metadata(key))
        else:
            self.keys_left_out += 1

    def _keep(
        self,
        metadata: dict[str, str],
        place: tuple[str, int, int],
        timestamp: tuple[int, int],
        headers: Headers | None,
    ) -> None:
        """Put the fields beside the key into metadata."""
        for name, part in self._places:
            metadata[name] = str(place[part])
        kind, milliseconds = timestamp
        if kind and self._keeps_time:
            metadata[fields.TIMESTAMP] = str(milliseconds)
            if kind == APPENDED:
                metadata[fields.TIMESTAMP_TYPE] = "append"
        if headers and self._keeps_headers:
            metadata[fields.HEADERS] = headers_text(headers)


_ENCODERS: dict[Decode, type[RecordEncoder]] = {Decode.RECORD: RecordEncoder, Decode.EVENT: EventEncoder}
_PLACE = (
    (Field.TOPIC, fields.TOPIC, 0),
    (Field.PARTITION, fields.PARTITION, 1),
    (Field.OFFSET, fields.OFFSET, 2),
)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _value(value: bytes | None, headers: Any) -> bytes:
    return value or b""


def _payload(value: bytes, headers: Any) -> Event:
    return Event(event_type=RECORD_TYPE, payload=value)


def _tombstone(metadata: dict[str, str]) -> Event:
    metadata[fields.TOMBSTONE] = "true"
    return Event(event_type=TOMBSTONE_TYPE)


def _cloud_event(value: bytes, headers: Headers | None) -> Event | bytes | RecordError:
    texts: Mapping[str, str] = {name: _text(text) for name, text in headers or ()}
    if "ce_specversion" not in texts:
        return value
    attributes = {name[3:]: text for name, text in texts.items() if name.startswith("ce_")}
    attributes["datacontenttype"] = texts.get("content-type", "") if value else ""
    try:
        return event_from_attributes(attributes, value)
    except FieldError as error:
        return RecordError(str(error))
