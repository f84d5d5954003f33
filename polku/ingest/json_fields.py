"""From the fields of a decoded JSON object to an Event; names and types are read off the schema."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from polku.event.v1.event_pb2 import Event
from polku.ingest.json_values import (
    FieldError,
    Setter,
    expected,
    is_repeated,
    scalar,
    set_string_map,
    set_strings,
    set_timestamp,
    shorten_name,
)

__all__ = ["FieldError", "event_from_fields"]

_CLOUDEVENT = (
    "this is a CloudEvent: send it as application/cloudevents+json, an array as application/cloudevents-batch+json"
)
_HINTS = {
    "data": "typed data stands under its own name, such as 'network'; opaque bytes stand in 'payload'",
    "timestamp": "did you mean 'timestamp_unix_ns'?",
    "time": "did you mean 'timestamp_unix_ns'?",
    "type": "did you mean 'event_type'?",
}


def event_from_fields(fields: Any) -> Event:
    """Build an Event; raises `FieldError`."""
    if type(fields) is not dict:
        raise expected(fields, "an object: an event's fields by name", "record")
    event = Event()
    _EVENT.fill(event, fields)
    return event


class _Schema:
    """The setters of a message's fields, by both of their names."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.name = descriptor.name
        self._setters: dict[str, Setter] = {}
        self._twins: dict[str, str] = {}  # camelCase name -> snake_case name, where they differ
        for field in descriptor.fields:
            self._setters[field.name] = self._setters[field.json_name] = _setter(field)
            if field.json_name != field.name:
                self._twins[field.json_name] = field.name

    def fill(self, message: Any, fields: dict[str, Any]) -> None:
        """Set the fields that are there and not null."""
        setters = self._setters
        name, value = "", None
        try:
            for name, value in fields.items():
                set_field = setters[name]
                if value is not None:
                    set_field(message, value)
        except KeyError:
            if self.name == "Event" and "specversion" in fields:
                raise FieldError("specversion", fields["specversion"], _CLOUDEVENT) from None
            raise self._unknown(name, value) from None
        except FieldError as error:
            raise error.inside(name) from None
        if not self._twins.keys().isdisjoint(fields):
            self._refuse_both_names(fields)

    def _refuse_both_names(self, fields: dict[str, Any]) -> None:
        for camel, snake in self._twins.items():
            if camel in fields and snake in fields:
                raise FieldError(camel, fields[camel], f"appears twice, also as {snake!r}; leave one of them out")

    def _unknown(self, name: str, value: Any) -> FieldError:
        known: Sequence[str] = [name for name in self._setters if name not in self._twins]
        close = difflib.get_close_matches(name[:100], known, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        if self.name == "Event":
            hint = f"{_HINTS.get(name, hint)} (what has no field of its own goes into 'metadata' or 'payload')"
        return FieldError(shorten_name(name), value, f"{self.name} has no such field; {hint}")


def _setter(field: FieldDescriptor) -> Setter:
    if field.name == "id" and field.containing_type is Event.DESCRIPTOR:
        return _set_id
    if is_repeated(field):
        is_map = field.message_type is not None
        return _into(field.name, set_string_map if is_map else set_strings)
    if field.message_type is None:
        return scalar(field)
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return _into(field.name, set_timestamp)
    return _typed_data(field.name, _Schema(field.message_type))


def _set_id(event: Any, value: Any) -> None:
    if type(value) is not str:
        raise expected(value, "a string")
    if not value:
        raise FieldError("", value, "is empty; leave it out to have an id made, or give a unique string")
    event.id = value


def _into(attribute: str, fill: Setter) -> Setter:
    def set_inside(message: Any, value: Any) -> None:
        fill(getattr(message, attribute), value)

    return set_inside


def _typed_data(kind: str, schema: _Schema) -> Setter:
    def set_data(event: Any, value: Any) -> None:
        present = event.WhichOneof("data")
        if present is not None:
            raise FieldError("", value, f"an event carries one kind of typed data, and {present!r} is there already")
        if type(value) is not dict:
            raise expected(value, f"an object: the fields of {schema.name}")
        data = getattr(event, kind)
        data.SetInParent()
        schema.fill(data, value)

    return set_data


_EVENT = _Schema(Event.DESCRIPTOR)
