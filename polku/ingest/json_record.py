"""From the bytes of one JSON object to an Event."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
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
_RAW = msgspec.json.Decoder(msgspec.Raw).decode
_RAW_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_LARGE = 64 * 1024  # bytes
_NAMES = 10_000  # in a large record
_NAME_END = re.compile(rb'(?<!\\)"\s*:')
_OPENING = (b"{", b"[")


def decode(record: bytes, left: str = "") -> Any:
    """Decode JSON; raises `NotJsonError`, and `FieldError` where a large record has more in it than an event may have.

    Of a large record the member `left` is only checked to be JSON: it is left as `msgspec.Raw`, unless it is text.
    """
    try:
        return _DECODE(record) if len(record) <= _LARGE else _decode_large(record, left)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise explain(record, error) from None


def _decode_large(record: bytes, left: str) -> Any:
    """Decode level by level: 4 MB of small values take 100 ms to decode, and 4 ms to be cut apart."""
    if not record.isascii():
        record.decode()
    if not left and record.count(b":") > _NAMES and _has_many_names(record):
        raise FieldError("record", "{…}", f"has more than {_NAMES} names, more than any gateway takes; send fewer")
    if record.lstrip()[:1] != b"{":
        return _DECODE(record) if record.count(b",") < _NAMES else _RAW(record) and []
    return {
        name: msgspec.Raw(raw) if name == left and raw[:1] in _OPENING else _value(name, raw, levels=1)
        for name, raw in _members(record)
    }


def _has_many_names(record: bytes) -> bool:
    """Return whether the names of members are very many, at all levels; backslashes in them may hide some."""
    return next(islice(_NAME_END.finditer(record), _NAMES, None), None) is not None


def _members(data: bytes) -> list[tuple[str, bytes]]:
    return [(name, bytes(raw)) for name, raw in _RAW_MEMBERS(data).items()]


def _value(name: str, data: bytes, levels: int) -> Any:
    if len(data) <= _LARGE or data[:1] not in _OPENING:
        return _DECODE(data)
    if levels and data[:1] == b"{":
        return {key: _value(f"{name}.{key[:40]}", raw, levels - 1) for key, raw in _members(data)}
    raise FieldError(name, data[:20].decode("utf-8", "replace"), f"has {len(data)} bytes, the most is {_LARGE}")


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
