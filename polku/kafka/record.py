"""An event as a Kafka record: topic, key, value and headers.

| value | the value is | headers |
|---|---|---|
| `protobuf` | the serialised Event | `id`, `type`, `source`, the chosen metadata, `content-type` |
| `json` | the Event as JSON, as the JsonIngestor reads it | the same |
| `raw` | the payload; typed data as JSON | the same; `content-type` where the metadata has `datacontenttype` |
| `cloudevents` | a CloudEvent in JSON: structured mode of CloudEvents' Kafka binding 1.0 | `content-type` |
| `cloudevents-binary` | the data of a CloudEvent: binary mode | its attributes as `ce_…`, `content-type` |
| `record` | the payload; typed data as JSON | those of the metadata `kafka.headers`, and no others |

An event whose metadata `kafka.tombstone` is `true` has no value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import msgspec

from polku.checks import shorten
from polku.emit.cloudevents import cloud_event
from polku.emit.json_form import data_fields, event_fields
from polku.event.v1.event_pb2 import Event
from polku.kafka.client import UnfitError
from polku.kafka.fields import (
    PARTITION,
    TIMESTAMP,
    TOMBSTONE,
    Headers,
    read_headers,
    read_key,
    read_number,
)
from polku.kafka.template import AbsentError, Maker
from polku.text import named

ANY_PARTITION = -1
Metadata: TypeAlias = Mapping[str, str]
"""An event's, read once: each `event.metadata` makes another view of it."""
_LEGAL = re.compile(r"[A-Za-z0-9._-]{1,249}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_STRUCTURED = ("content-type", b"application/cloudevents+json; charset=UTF-8")
_PROTOBUF = ("content-type", b"application/x-protobuf")
_JSON = ("content-type", b"application/json")


class Value(StrEnum):
    """Say what a record's value is."""

    PROTOBUF = "protobuf"
    JSON = "json"
    RAW = "raw"
    CLOUDEVENTS = "cloudevents"
    CLOUDEVENTS_BINARY = "cloudevents-binary"
    RECORD = "record"


class Stamp(StrEnum):
    """Say which time a record's timestamp is."""

    SENT = "sent"
    """When the client took the record."""
    EVENT = "event"
    """The event's own."""


class Record(NamedTuple):
    """One event, ready to be sent."""

    event_id: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    position: int = 0
    """Where the event is in its batch."""
    partition: int = ANY_PARTITION
    timestamp: int = 0
    """Milliseconds since 1970; 0: the client's."""


_new_record: Callable[[tuple[object, ...]], Record] = partial(tuple.__new__, Record)  # a third of what a call costs


class RecordMaker:
    """Make records; `fixed` is the topic's name where it is the same for every event."""

    def __init__(
        self,
        topic: Maker,
        key: Maker | None,
        value: Value,
        headers: Sequence[str],
        *,
        fixed: str = "",
        partition: Maker | None = None,
        stamp: Stamp = Stamp.SENT,
    ) -> None:
        self._topic = topic
        self._fixed = fixed
        self._key = key
        self._chosen = tuple(headers)
        forms: dict[Value, Callable[[Event, bytes, Metadata], tuple[bytes, Headers]]] = {
            Value.PROTOBUF: self._protobuf,
            Value.JSON: self._json,
            Value.RAW: self._raw,
            Value.CLOUDEVENTS: _structured,
            Value.CLOUDEVENTS_BINARY: _binary,
            Value.RECORD: _record,
        }
        self._form = forms[value]
        is_record = value is Value.RECORD
        self._partition = partition or (partial(read_number, name=PARTITION) if is_record else None)
        self._timestamp = _own_timestamp if is_record else _event_timestamp if stamp is Stamp.EVENT else None

    def make(self, event: Event, frame: bytes, position: int = 0) -> Record:
        """Return the record of an event, which is serialised as `frame`; raises `UnfitError`."""
        topic = self._fixed or check_topic(_call("topic", self._topic, event))
        metadata = event.metadata
        if self._key is not None:
            key = check_key(_call("key", self._key, event))
        else:
            key = _call("key", read_key, event) if metadata else None
        try:
            value, headers = self._form(event, frame, metadata)
        except MemoryError:
            raise
        except Exception as error:
            raise UnfitError(f"value: the event cannot be written: {named(error)}") from error
        sent = None if metadata and TOMBSTONE in metadata and metadata[TOMBSTONE] == "true" else value
        partition = ANY_PARTITION if self._partition is None else self._choose_partition(event)
        timestamp = 0 if self._timestamp is None else _call("timestamp", self._timestamp, event)
        return _new_record((event.id, topic, key, sent, headers, position, partition, timestamp))

    def _choose_partition(self, event: Event) -> int:
        assert self._partition is not None
        partition = _call("partition", self._partition, event)
        return ANY_PARTITION if partition is None else check_partition(partition)

    def _protobuf(self, event: Event, frame: bytes, metadata: Metadata) -> tuple[bytes, Headers]:
        headers = self._headers(event, metadata)
        headers.append(_PROTOBUF)
        return frame, headers

    def _json(self, event: Event, frame: bytes, metadata: Metadata) -> tuple[bytes, Headers]:
        return msgspec.json.encode(event_fields(event)), [*self._headers(event, metadata), _JSON]

    def _raw(self, event: Event, frame: bytes, metadata: Metadata) -> tuple[bytes, Headers]:
        headers = self._headers(event, metadata)
        kind = event.WhichOneof("data")
        if kind is not None:
            return msgspec.json.encode(data_fields(event, kind)), [*headers, _JSON]
        content_type = metadata.get("datacontenttype", "")
        return event.payload, [*headers, ("content-type", content_type.encode())] if content_type else headers

    def _headers(self, event: Event, metadata: Metadata) -> Headers:
        # As bytes: of text the client sends what stands before its first NUL.
        headers: Headers = [
            ("id", event.id.encode()),
            ("type", event.event_type.encode()),
            ("source", event.source.encode()),
        ]
        if metadata:
            for name in self._chosen:
                if name in metadata:
                    headers.append((name, metadata[name].encode()))
        return headers


def check_topic(topic: object) -> str:
    """Return a topic's name; raises `UnfitError` for what is none."""
    if isinstance(topic, str) and _LEGAL.fullmatch(topic) and topic not in (".", ".."):
        return topic
    raise UnfitError(f"topic={shorten(topic)}: a topic's name has 1 to 249 letters, digits, '.', '_' and '-'")


def check_key(key: object) -> bytes | None:
    """Return a key as its bytes; raises `UnfitError` for what is none."""
    if isinstance(key, str):
        try:
            return key.encode()
        except UnicodeEncodeError as error:
            raise UnfitError(f"key={shorten(key)}: this text cannot be encoded as UTF-8 ({error.reason})") from None
    if key is None or isinstance(key, bytes):
        return key
    raise UnfitError(f"key={shorten(key)}: the function must return text, bytes or None")


def _call(field: str, make: Maker, event: Event) -> Any:
    try:
        return make(event)
    except AbsentError as error:
        raise UnfitError(str(error)) from None
    except MemoryError:
        raise
    except BaseException as error:  # a user's function may raise anything
        raise UnfitError(f"{field}: the function raised {named(error)}") from error


def check_partition(partition: object) -> int:
    """Return the number of a partition, which may be a text; raises `UnfitError` for what is none."""
    number = int(partition) if isinstance(partition, str) and _NUMBER.fullmatch(partition) else partition
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31:
        return number
    raise UnfitError(f"partition={shorten(partition)}: a partition is a whole number of at least 0, or None for any")


def _event_timestamp(event: Event) -> int:
    """Return the event's time for a record: librdkafka takes 0 for the time of sending."""
    return event.timestamp_unix_ns // 1_000_000 or 1


def _own_timestamp(event: Event) -> int:
    """Return the time that a record had, or its event's."""
    milliseconds = read_number(event, TIMESTAMP)
    if milliseconds is None:
        return _event_timestamp(event)
    if not -(2**63) <= milliseconds < 2**63:
        raise ValueError(f"metadata {TIMESTAMP!r} is no time")
    return milliseconds or 1


def _record(event: Event, frame: bytes, metadata: Metadata) -> tuple[bytes, Headers]:
    kind = event.WhichOneof("data")
    return event.payload if kind is None else msgspec.json.encode(data_fields(event, kind)), read_headers(event)


def _structured(event: Event, frame: bytes, metadata: Metadata) -> tuple[bytes, Headers]:
    return msgspec.json.encode(cloud_event(event)), [_STRUCTURED]


def _binary(event: Event, frame: bytes, metadata: Metadata) -> tuple[bytes, Headers]:
    attributes = cloud_event(event)
    data = attributes.pop("data", None)
    attributes.pop("data_base64", None)
    content_type = attributes.pop("datacontenttype", "")
    headers: Headers = [(f"ce_{name}", str(value).encode()) for name, value in attributes.items()]
    if content_type:
        headers.append(("content-type", content_type.encode()))
    typed = event.WhichOneof("data") is not None
    return msgspec.json.encode(data) if typed else event.payload, headers
