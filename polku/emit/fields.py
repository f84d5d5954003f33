"""An event as fields with texts or bytes: an entry of a stream, or headers and the data of a message.

| value | the field `data` is | other fields |
|---|---|---|
| `protobuf` | the serialised Event | `id`, `type`, `source`, the chosen metadata, `content-type` |
| `json` | the Event as JSON, as the JsonIngestor reads it | the same |
| `raw` | the payload; typed data as JSON | the same; `content-type` where the metadata has `datacontenttype` |
| `cloudevents` | a CloudEvent in JSON | `content-type` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeAlias

from polku.emit.cloudevents import cloud_event
from polku.emit.json_form import data_fields, event_fields
from polku.event.v1.event_pb2 import Event

Fields: TypeAlias = "dict[str, str | bytes]"
DATA = "data"
"""The field that has the event."""
_CONTENT_TYPE = "content-type"


class Value(StrEnum):
    """Say what the field `data` is."""

    PROTOBUF = "protobuf"
    JSON = "json"
    RAW = "raw"
    CLOUDEVENTS = "cloudevents"


def writer(value: Value, metadata: Sequence[str]) -> Callable[[Event], Fields]:
    """Return the function that makes the fields of an event's entry; these metadata become fields too."""
    forms = {Value.PROTOBUF: _protobuf, Value.JSON: _json, Value.RAW: _raw, Value.CLOUDEVENTS: _cloudevents}
    form = forms[value]

    def write(event: Event) -> Fields:
        own: Fields = {}
        if value is not Value.CLOUDEVENTS:
            own = {"id": event.id, "type": event.event_type, "source": event.source}
            own |= {name: event.metadata[name] for name in metadata if name in event.metadata}
        return own | form(event)

    return write


def _protobuf(event: Event) -> Fields:
    return {_CONTENT_TYPE: "application/x-protobuf", DATA: event.SerializeToString()}


def _json(event: Event) -> Fields:
    import msgspec

    return {_CONTENT_TYPE: "application/json", DATA: msgspec.json.encode(event_fields(event))}


def _raw(event: Event) -> Fields:
    import msgspec

    kind = event.WhichOneof("data")
    if kind is not None:
        return {_CONTENT_TYPE: "application/json", DATA: msgspec.json.encode(data_fields(event, kind))}
    content_type = event.metadata.get("datacontenttype", "")
    return {**({_CONTENT_TYPE: content_type} if content_type else {}), DATA: event.payload}


def _cloudevents(event: Event) -> Fields:
    import msgspec

    return {_CONTENT_TYPE: "application/cloudevents+json", DATA: msgspec.json.encode(cloud_event(event))}
