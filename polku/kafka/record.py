"""An event as a Kafka record: topic, key, value and headers.

| value | the value is | headers |
|---|---|---|
| `protobuf` | the serialised Event | `id`, `type`, `source`, the chosen metadata, `content-type` |
| `json` | the Event as JSON, as the JsonIngestor reads it | the same |
| `raw` | the payload; typed data as JSON | the same; `content-type` where the metadata has `datacontenttype` |
| `cloudevents` | a CloudEvent in JSON: structured mode of CloudEvents' Kafka binding 1.0 | `content-type` |
| `cloudevents-binary` | the data of a CloudEvent: binary mode | its attributes as `ce_…`, `content-type` |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from polku.checks import shorten
from polku.emit.cloudevents import cloud_event
from polku.emit.json_form import data_fields, event_fields
from polku.event.v1.event_pb2 import Event
from polku.kafka.client import UnfitError
from polku.kafka.keys import read_key
from polku.kafka.template import AbsentError, Maker
from polku.text import named

Headers = list[tuple[str, str]]
_LEGAL = re.compile(r"[A-Za-z0-9._-]{1,249}")
_STRUCTURED = "application/cloudevents+json; charset=UTF-8"


class Value(StrEnum):
    """Say what a record's value is."""

    PROTOBUF = "protobuf"
    JSON = "json"
    RAW = "raw"
    CLOUDEVENTS = "cloudevents"
    CLOUDEVENTS_BINARY = "cloudevents-binary"


class Record(NamedTuple):
    """One event, ready to be sent."""

    event_id: str
    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    position: int = 0
    """Where the event is in its batch."""


class RecordMaker:
    """Make records; `fixed` is the topic's name where it is the same for every event."""

    def __init__(
        self, topic: Maker, key: Maker | None, value: Value, headers: Sequence[str], *, fixed: str = ""
    ) -> None:
        self._topic = topic
        self._fixed = fixed
        self._key = key or read_key
        self._chosen = tuple(headers)
        forms: dict[Value, Callable[[Event, bytes], tuple[bytes, Headers]]] = {
            Value.PROTOBUF: self._protobuf,
            Value.JSON: self._json,
            Value.RAW: self._raw,
            Value.CLOUDEVENTS: _structured,
            Value.CLOUDEVENTS_BINARY: _binary,
        }
        self._form = forms[value]

    def make(self, event: Event, frame: bytes, position: int = 0) -> Record:
        """Return the record of an event, which is serialised as `frame`; raises `UnfitError`."""
        topic = self._fixed or check_topic(_call("topic", self._topic, event))
        key = check_key(_call("key", self._key, event))
        try:
            value, headers = self._form(event, frame)
        except MemoryError:
            raise
        except Exception as error:
            raise UnfitError(f"value: the event cannot be written: {named(error)}") from error
        return Record(event.id, topic, key, value, headers, position)

    def _protobuf(self, event: Event, frame: bytes) -> tuple[bytes, Headers]:
        return frame, [*self._headers(event), ("content-type", "application/x-protobuf")]

    def _json(self, event: Event, frame: bytes) -> tuple[bytes, Headers]:
        return msgspec.json.encode(event_fields(event)), [*self._headers(event), ("content-type", "application/json")]

    def _raw(self, event: Event, frame: bytes) -> tuple[bytes, Headers]:
        headers = self._headers(event)
        kind = event.WhichOneof("data")
        if kind is not None:
            return msgspec.json.encode(data_fields(event, kind)), [*headers, ("content-type", "application/json")]
        content_type = event.metadata.get("datacontenttype", "")
        return event.payload, [*headers, ("content-type", content_type)] if content_type else headers

    def _headers(self, event: Event) -> Headers:
        headers = [("id", event.id), ("type", event.event_type), ("source", event.source)]
        metadata = event.metadata
        headers += [(name, metadata[name]) for name in self._chosen if name in metadata]
        return headers


def check_topic(topic: object) -> str:
    """Return a topic's name; raises `UnfitError` for what is none."""
    if isinstance(topic, str) and _LEGAL.fullmatch(topic) and topic not in (".", ".."):
        return topic
    raise UnfitError(f"topic={shorten(topic)}: a topic's name has 1 to 249 letters, digits, '.', '_' and '-'")


def check_key(key: object) -> bytes | None:
    """Return a key as its bytes; raises `UnfitError` for what is none."""
    if key is None or isinstance(key, bytes):
        return key
    if not isinstance(key, str):
        raise UnfitError(f"key={shorten(key)}: the function must return text, bytes or None")
    try:
        return key.encode()
    except UnicodeEncodeError as error:
        raise UnfitError(f"key={shorten(key)}: this text cannot be encoded as UTF-8 ({error.reason})") from None


def _call(field: str, make: Maker, event: Event) -> object:
    try:
        return make(event)
    except AbsentError as error:
        raise UnfitError(str(error)) from None
    except MemoryError:
        raise
    except BaseException as error:  # a user's function may raise anything
        raise UnfitError(f"{field}: the function raised {named(error)}") from error


def _structured(event: Event, frame: bytes) -> tuple[bytes, Headers]:
    return msgspec.json.encode(cloud_event(event)), [("content-type", _STRUCTURED)]


def _binary(event: Event, frame: bytes) -> tuple[bytes, Headers]:
    attributes = cloud_event(event)
    data = attributes.pop("data", None)
    attributes.pop("data_base64", None)
    content_type = attributes.pop("datacontenttype", "")
    headers = [(f"ce_{name}", str(value)) for name, value in attributes.items()]
    if content_type:
        headers.append(("content-type", content_type))
    typed = event.WhichOneof("data") is not None
    return msgspec.json.encode(data) if typed else event.payload, headers
