"""From the bytes of one JSON object to an Event."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from polku.aio.slices import at_once
from polku.event.v1.event_pb2 import Event
from polku.ingest.base64_slices import bytes_of_text
from polku.ingest.json_cut import LARGE, members
from polku.ingest.json_fields import FieldError, event_from_fields
from polku.ingest.json_values import shorten_name


class NotJsonError(Exception):
    """Say why bytes are not JSON, and at which of them."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


class Members(Struct, frozen=True):
    """What is done with members of large records: `left` stays as it is (`msgspec.Raw`), if it is more than a number.

    `octets` has base64, and becomes bytes; where that is `lenient`, of either alphabet, with or without padding.
    """

    left: str = ""
    octets: str = ""
    lenient: bool = False


_DECODE = msgspec.json.Decoder().decode
_RAW = msgspec.json.Decoder(msgspec.Raw).decode
_ANY = Members()
_NAMES = 10_000  # in a large record
_BACKSLASH = 0x5C
_NAME_END = re.compile(rb'"\s*:')
_OPENING = (b"{", b"[")
_LEFT = (*_OPENING, b'"')


def decode(record: bytes) -> Any:
    """Decode JSON; raises `NotJsonError`, and `FieldError` where a large one has more in it than an event may have."""
    return at_once(decoding(record))


def decoding(record: bytes, of: Members = _ANY) -> Generator[None, None, Any]:
    """Do what `decode` does, in slices."""
    try:
        return _DECODE(record) if len(record) <= LARGE else (yield from _decode_large(record, of))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise explain(record, error) from None


def _decode_large(record: bytes, of: Members) -> Generator[None, None, Any]:
    """Decode level by level: 4 MB of small values take 100 ms to decode, and 4 ms to be cut apart."""
    if not record.isascii():
        record.decode()
        yield
    if not of.left and record.count(b":") > _NAMES and _has_many_names(record):
        raise _too_many("record")
    if record.lstrip()[:1] != b"{":
        return _DECODE(record) if record.count(b",") < _NAMES else _RAW(record) and []
    _RAW(record)
    yield
    fields: dict[str, Any] = {}
    for pair in members(record):
        if pair is None:
            yield
            continue
        name, raw = pair
        if name == of.left and raw[:1] in _LEFT:
            fields[name] = msgspec.Raw(raw)
        elif name == of.octets and raw[:1] == b'"' and len(raw) > LARGE:
            fields[name] = yield from _octets(name, raw, of)
        else:
            fields[name] = yield from _value(name, raw, levels=1)
        if len(fields) > _NAMES:
            raise _too_many("record")
        if len(raw) > LARGE:
            yield
    return fields


def _octets(name: str, raw: bytes, of: Members) -> Generator[None, None, bytes | FieldError]:
    """Return the bytes, or what is wrong: it is raised where the field is set, when the record's id is known."""
    text = raw[1:-1].replace(b"\\/", b"/")  # some write it so
    if b"\\" in text:
        text = _DECODE(raw).encode()
    yield
    try:
        return (yield from bytes_of_text(text, lenient=of.lenient))
    except ValueError as error:
        reason = str(error).rstrip(".")
        shown = text[:80].decode("utf-8", "replace")
        return FieldError(name, shown, f"is not base64 ({reason}); encode the bytes as base64")


def _has_many_names(record: bytes) -> bool:
    """Return whether the names of members are very many, at all levels; backslashes in them may hide some."""
    ends = islice(_NAME_END.finditer(record), 4 * _NAMES)
    names = (end for end in ends if record[end.start() - 1] != _BACKSLASH)
    return next(islice(names, _NAMES, None), None) is not None


def _value(name: str, data: bytes, levels: int) -> Generator[None, None, Any]:
    if len(data) <= LARGE or data[:1] not in _OPENING:
        return _DECODE(data)
    if not levels or data[:1] != b"{":
        raise FieldError(name, data[:20].decode("utf-8", "replace"), f"has {len(data)} bytes, the most is {LARGE}")
    fields: dict[str, Any] = {}
    for pair in members(data):
        if pair is None:
            yield
            continue
        fields[pair[0]] = yield from _value(f"{name}.{pair[0][:40]}", pair[1], levels - 1)
        if len(fields) > _NAMES:
            raise _too_many(name)
    return fields


def _too_many(name: str) -> FieldError:
    return FieldError(name, "{…}", f"has more than {_NAMES} names, more than any gateway takes; send fewer")


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


def event_from_json(record: bytes, fields: Any) -> Generator[None, None, Event]:
    """Build an Event of a record and what it was decoded to; raises `FieldError`."""
    event = event_from_fields(fields)
    if record.count(b":") != _keys(fields):  # there may be colons in the strings, or keys that appear twice
        if len(record) <= LARGE:
            _refuse_twins(record)
        else:
            yield
            yield from _refuse_large_twins(record, fields)
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
        _check_names([name for name, _ in pairs], fields)
        return fields

    try:
        json.loads(record, object_pairs_hook=no_twins)
    except (ValueError, RecursionError):  # it was decoded before, so this is in what a second field hides
        raise FieldError("record", record[:60], "a field appears twice in it; leave one of them out") from None


def _refuse_large_twins(record: bytes, fields: dict[str, Any]) -> Generator[None, None, None]:
    names: list[str] = []
    for pair in members(record):
        if pair is None:
            yield
            continue
        names.append(pair[0])
        if pair[1][:1] == b"{":
            inner: list[str] = []
            for part in members(pair[1]):
                if part is None:
                    yield
                else:
                    inner.append(part[0])
            _check_names(inner, fields[pair[0]])
    _check_names(names, fields)


def _check_names(names: list[str], fields: dict[str, Any]) -> None:
    times = Counter(names)
    if len(times) != len(names):
        twin = next(name for name in names if times[name] > 1)
        fix = f"stands {times[twin]} times in one object; leave all but one out"
        raise FieldError(shorten_name(twin), fields[twin], fix)


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
