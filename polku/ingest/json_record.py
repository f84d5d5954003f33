"""From the bytes of one JSON object to an Event."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec

from polku.event.v1.event_pb2 import Event
from polku.ingest.json_fields import FieldError, event_from_fields
from polku.ingest.json_values import shorten_name


class NotJsonError(Exception):
    """Say why bytes are not JSON, and at which of them."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


_DECODE = msgspec.json.Decoder().decode


def decode(record: bytes) -> Any:
    """Decode JSON; raises `NotJsonError`."""
    try:
        return _DECODE(record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise explain(record, error) from None


def explain(data: bytes, error: Exception) -> NotJsonError:
    """Say for people why decoding failed."""
    if isinstance(error, RecursionError):
        return NotJsonError("not JSON: nested too deeply; an event has three levels", 0)
    if isinstance(error, UnicodeDecodeError):
        return _explain_bytes(data)
    text = str(error).removeprefix("JSON is malformed: ")
    if text == "Input data was truncated":
        what = "it ends too early; a bracket, a quote or a value is missing" if data.strip() else "there is no record"
        return NotJsonError(f"not JSON: {what}", len(data))
    reason, found, place = text.partition(" (byte ")
    if found:
        offset = int(place.rstrip(")")) - (reason == "trailing characters")  # msgspec counts one too many there
        return NotJsonError(f"not JSON: {reason} at {_excerpt(data, offset)}", offset)
    return NotJsonError(f"not JSON: {text[:200]}", 0)


def event_from_json(record: bytes, fields: Any) -> Event:
    """Build an Event of a record and what it was decoded to; raises `FieldError`."""
    event = event_from_fields(fields)
    if record.count(b":") != _keys(fields):  # there may be colons in the strings, or keys that stand twice
        _refuse_twins(record)
    return event


def _keys(fields: dict[str, Any]) -> int:
    """Count the keys of an object that has been read into an event, so that it has two levels at most."""
    count = len(fields)
    for value in fields.values():
        if type(value) is dict:
            count += len(value)
    return count


def _refuse_twins(record: bytes) -> None:
    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            times = Counter(name for name, _ in pairs)
            twin = next(name for name, _ in pairs if times[name] > 1)
            fix = f"stands {times[twin]} times in one object; leave all but one out"
            raise FieldError(shorten_name(twin), fields[twin], fix)
        return fields

    try:
        json.loads(record, object_pairs_hook=no_twins)
    except (ValueError, RecursionError):  # it was decoded before, so this is in what a second field hides
        raise FieldError("record", record[:60], "a field stands twice in it; leave one of them out") from None


def _explain_bytes(data: bytes) -> NotJsonError:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        byte = data[error.start]
        return NotJsonError(
            f"not UTF-8: byte 0x{byte:02x} at {_excerpt(data, error.start)}; JSON is UTF-8", error.start
        )
    return NotJsonError("not UTF-8; JSON is UTF-8", 0)


def _excerpt(data: bytes, offset: int) -> str:
    text = data[max(0, offset - 10) : offset + 10].decode("utf-8", "replace")
    return f"byte {offset}, near {text!r}"
