"""From the fields of a JSON object to an Event, with an error that names field, value and fix for each mistake."""

from __future__ import annotations

import base64
import binascii
import difflib
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format

from polku.event.v1.event_pb2 import Event, Outcome, Severity

_INT64 = 2**63


class FieldError(Exception):
    """Say which field is wrong, its value, and what to write instead."""

    def __init__(self, field: str, value: object, fix: str) -> None:
        text = repr(value)
        super().__init__(f"{field}={text if len(text) <= 60 else text[:57] + '...'}: {fix}")


def event_from_fields(fields: Any) -> Event:
    """Build an Event; raises `FieldError`."""
    if not isinstance(fields, dict):
        raise FieldError("record", fields, f"a {type(fields).__name__}; an event is a JSON object")
    event = Event()
    for name, value in fields.items():
        set_field = _FIELDS.get(name)
        if set_field is None:
            raise _unknown(name, value)
        if value is not None:
            set_field(event, name, value)
    return event


def _text(attribute: str) -> Callable[[Event, str, Any], None]:
    def set_text(event: Event, name: str, value: Any) -> None:
        setattr(event, attribute, _string(name, value))

    return set_text


def _id(event: Event, name: str, value: Any) -> None:
    text = _string(name, value)
    if not text:
        raise FieldError(name, value, "empty; leave the field out to have an id made, or give a unique string")
    event.id = text


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FieldError(name, value, f"a {type(value).__name__}; it must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldError(name, value, "holds half of a surrogate pair, which UTF-8 cannot carry") from None
    return value


def _timestamp(event: Event, name: str, value: Any) -> None:
    number = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            raise FieldError(name, value, "it must be Unix time in nanoseconds, a whole number") from None
    if not isinstance(number, int) or isinstance(number, bool):
        raise FieldError(name, value, "it must be Unix time in nanoseconds, a whole number")
    if not -_INT64 <= number < _INT64:
        raise FieldError(name, value, "out of range; Unix time in nanoseconds is a signed 64-bit number")
    event.timestamp_unix_ns = number


def _metadata(event: Event, name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise FieldError(name, value, f"a {type(value).__name__}; it must be an object of strings")
    for key, text in value.items():
        event.metadata[_string(f"{name} key", key)] = _string(f"{name}[{key!r}]", text)


def _payload(event: Event, name: str, value: Any) -> None:
    text = _string(name, value).replace("-", "+").replace("_", "/")
    try:
        event.payload = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FieldError(name, value, f"not base64 ({error}); encode the payload's bytes as base64") from None


def _routes(event: Event, name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise FieldError(name, value, "it must be an array of emitter names")
    event.route_to.extend([_string(f"{name}[{i}]", item) for i, item in enumerate(value)])


def _enum(attribute: str, enum: Any, prefix: str) -> Callable[[Event, str, Any], None]:
    names = {key.lower(): number for key, number in enum.items()}
    names |= {key.lower().removeprefix(prefix): number for key, number in enum.items()}
    known = ", ".join(key.lower().removeprefix(prefix) for key, _ in enum.items())

    def set_enum(event: Event, name: str, value: Any) -> None:
        number = names.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool):
            raise FieldError(name, value, f"not a known name; choose one of {known}, or a number")
        if not -(2**31) <= number < 2**31:
            raise FieldError(name, value, "out of range; an enum is a 32-bit number")
        setattr(event, attribute, number)

    return set_enum


def _data(event: Event, name: str, value: Any) -> None:
    present = event.WhichOneof("data")
    if present is not None:
        raise FieldError(name, value, f"an event carries one kind of typed data, and {present} is there already")
    if not isinstance(value, dict):
        raise FieldError(name, value, f"a {type(value).__name__}; it must be an object")
    try:
        getattr(event, name).SetInParent()
        json_format.ParseDict(value, getattr(event, name))
    except json_format.ParseError as error:
        raise FieldError(name, value, str(error).split(" Available Fields")[0]) from None
    except RecursionError:
        raise FieldError(name, "...", "nested too deeply") from None


_FIELDS: dict[str, Callable[[Event, str, Any], None]] = {
    "id": _id,
    "timestamp_unix_ns": _timestamp,
    "timestampUnixNs": _timestamp,
    "source": _text("source"),
    "event_type": _text("event_type"),
    "eventType": _text("event_type"),
    "metadata": _metadata,
    "payload": _payload,
    "route_to": _routes,
    "routeTo": _routes,
    "severity": _enum("severity", Severity, "severity_"),
    "outcome": _enum("outcome", Outcome, "outcome_"),
    **{field.name: _data for field in Event.DESCRIPTOR.oneofs_by_name["data"].fields},
}


def _unknown(name: str, value: Any) -> FieldError:
    close = difflib.get_close_matches(name, _FIELDS, 1)
    meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(_FIELDS))}"
    return FieldError(name, value, f"an Event has no such field; {meant} Put other data into metadata or payload")
