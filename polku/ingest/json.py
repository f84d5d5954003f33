"""Events as JSON: an object, an array of objects, or one object a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest.json_fields import FieldError, event_from_fields

_BOM = b"\xef\xbb\xbf"
_BYTE = re.compile(r"\(byte (\d+)\)")


@dataclass(frozen=True, slots=True)
class JsonIngestor:
    """Read JSON whose fields are those of the Event, in snake_case or camelCase.

    Severity and outcome are names (`"SEVERITY_INFO"`, `"info"`) or numbers, `payload` is base64, typed data stands
    under the name of its kind (`"network": {...}`), 64-bit numbers may be strings, `null` means absent. An unknown
    field is an error, not a silent loss. A bad record is one error with its line (or its place in an array) and byte
    offset; the others pass. The format hints `ndjson` and `json-lines` say that every line is a record.
    """

    sources: ClassVar[tuple[str, ...]] = ("json", "ndjson", "json-lines")

    def ingest(self, data: bytes, context: IngestContext) -> list[Event | RecordError]:
        """Return an event or an error for each record."""
        start = len(_BOM) if data.startswith(_BOM) else 0
        if "ndjson" in (context.format, context.source) or "json-lines" in (context.format, context.source):
            return list(_lines(data, start))
        if data[start : start + 64].lstrip().startswith(b"["):
            return list(_array(data, start))
        return list(_object_or_lines(data, start))


def _object_or_lines(data: bytes, start: int) -> Iterator[Event | RecordError]:
    try:
        fields = _decode(data[start:])
    except _NotJsonError as error:
        first, newline, _ = data[start:].lstrip().partition(b"\n")
        if newline and _is_object(first):
            yield from _lines(data, start)
        else:
            yield RecordError(error.message, line=1, offset=start + error.offset)
        return
    yield _event(fields, None, start)


def _lines(data: bytes, start: int) -> Iterator[Event | RecordError]:
    offset = start
    for number, line in enumerate(data[start:].split(b"\n"), 1):
        if line.strip():
            try:
                yield _event(_decode(line), number, offset)
            except _NotJsonError as error:
                yield RecordError(error.message, line=number, offset=offset + error.offset)
        offset += len(line) + 1


def _array(data: bytes, start: int) -> Iterator[Event | RecordError]:
    try:
        records = msgspec.json.decode(data[start:], type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = _explain(error)
        yield RecordError(f"the array cannot be read: {reason.message}", offset=start + reason.offset)
        return
    for position, record in enumerate(records):
        try:
            result = _event(_decode(bytes(record)), None, None)
        except _NotJsonError as error:
            result = RecordError(error.message)
        if isinstance(result, RecordError):
            yield RecordError(f"[{position}]: {result.message}", event_id=result.event_id)
        else:
            yield result


def _event(fields: Any, line: int | None, offset: int | None) -> Event | RecordError:
    try:
        return event_from_fields(fields)
    except FieldError as error:
        given = fields.get("id", "") if isinstance(fields, dict) else ""
        event_id = given if isinstance(given, str) else ""
        return RecordError(str(error), event_id=event_id, line=line, offset=offset)


class _NotJsonError(Exception):
    """Say why bytes are not JSON, and at which of them."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def _decode(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _explain(error) from None


def _explain(error: Exception) -> _NotJsonError:
    if isinstance(error, RecursionError):
        return _NotJsonError("nested too deeply; an event needs four levels", 0)
    if isinstance(error, UnicodeDecodeError):
        return _NotJsonError(f"not UTF-8 at byte {error.start}; JSON is UTF-8", error.start)
    place = _BYTE.search(str(error))
    return _NotJsonError(f"not JSON: {error}; send one complete object", int(place[1]) if place else 0)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(_decode(line), dict)
    except _NotJsonError:
        return False
