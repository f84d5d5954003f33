"""Events as JSON: an object, an array of objects, or one object a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import msgspec

from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest.json_fields import FieldError
from polku.ingest.json_record import NotJsonError, decode, event_from_json

MAX_ERRORS = 1_000
"""How many bad records of one message are told apart; reading stops there, and says so."""

_BOM = b"\xef\xbb\xbf"
_LINES = frozenset({"ndjson", "json-lines", "jsonl", "application/x-ndjson", "application/jsonl"})
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_PROBED_LINES = 100


class _Record(NamedTuple):
    """Where one record lies in the data, and how it is named: its `line`, its `place` in an array, or neither."""

    data: bytes
    offset: int
    line: int | None = None
    place: int | None = None


@dataclass(frozen=True, slots=True)
class JsonIngestor:
    """Read JSON whose fields are those of the Event, in snake_case or camelCase.

    `severity` and `outcome` are names (`"SEVERITY_INFO"`, `"info"`) or numbers, `payload` is base64 (either alphabet),
    typed data stands under the name of its kind (`"network": {...}`), 64-bit numbers may be strings, times inside typed
    data are RFC 3339, null means absent. Everything that protobuf's own JSON form of an Event holds is read back.

    A bad record is one error with its line, or its index in an array, and its byte offset; the others pass. Unknown
    and repeated fields are errors, because what they hold would be lost in silence. After 1,000 bad records the rest
    of the data is refused unread. The format hints `json` and `ndjson` (or `json-lines`, `jsonl`) say whether every
    line is a record; without one the source's name does, and data that is no single value is tried as lines.
    Blank lines are no records.
    """

    sources: ClassVar[tuple[str, ...]] = ("json", "ndjson", "json-lines")

    def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError]:
        """Yield an event or an error for each record, in order; never raises."""
        start = len(_BOM) if data.startswith(_BOM) else 0
        by_line = (context.format or context.source).lower() in _LINES
        return read_records(_lines(data, start) if by_line else _records(data, start), event_from_json)


def split_records(data: bytes) -> Iterator[_Record]:
    """Find the records in an object, an array or lines; each has its bytes as `data`."""
    return _records(data, len(_BOM) if data.startswith(_BOM) else 0)


def read_records(records: Iterator[_Record], build: Callable[[bytes, Any], Event]) -> Iterator[Event | RecordError]:
    """Decode records and build their events, from bytes and decoded value; `build` raises `FieldError`."""
    errors = 0
    for record in records:
        if errors == MAX_ERRORS:
            message = f"{errors} records before this one are bad; this one and the rest were not read"
            yield RecordError(message, line=record.line, offset=record.offset)
            return
        result = _event(record, build)
        errors += isinstance(result, RecordError)
        yield result


def _event(record: _Record, build: Callable[[bytes, Any], Event]) -> Event | RecordError:
    fields: object = None
    try:
        fields = decode(record.data)
        return build(record.data, fields)
    except NotJsonError as error:
        return _refuse(record, error.message, error.offset)
    except FieldError as error:
        given = fields.get("id") if isinstance(fields, dict) else None
        return _refuse(record, str(error), 0, given if isinstance(given, str) else "")


def _refuse(record: _Record, message: str, offset: int, event_id: str = "") -> RecordError:
    line = record.line
    if record.place is not None:
        message = f"[{record.place}]: {message}"
    elif line is None and offset:
        line = record.data.count(b"\n", 0, offset) + 1
    return RecordError(message, event_id=event_id, line=line, offset=record.offset + offset)


def _records(data: bytes, start: int) -> Iterator[_Record]:
    """Find the records of data of which it is not said that each line is one."""
    body = data[start:] if start else data
    if body.lstrip()[:1] == b"[":
        yield from _array(body, start)
    elif b"\n" in body.strip() and _is_lines(body):
        yield from _lines(data, start)
    else:
        yield _Record(body, start)


def _is_lines(body: bytes) -> bool:
    """Return whether data is one object a line: it is no single value, and one of its first lines is an object."""
    if _is_json(body):
        return False
    lines = (line for line in body.split(b"\n", _PROBED_LINES) if line.lstrip().startswith(b"{"))
    return any(map(_is_json, islice(lines, _PROBED_LINES)))


def _is_json(data: bytes) -> bool:
    try:
        decode(data)
    except NotJsonError:
        return False
    return True


def _lines(data: bytes, start: int) -> Iterator[_Record]:
    offset = start
    for number, line in enumerate((data[start:] if start else data).split(b"\n"), 1):
        if line and not line.isspace():
            yield _Record(line, offset, line=number)
        offset += len(line) + 1


def _array(body: bytes, start: int) -> Iterator[_Record]:
    try:
        pieces = list(map(bytes, _ARRAY.decode(body)))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        yield from _pieces(body, start)
        return
    end = 0
    for place, piece in enumerate(pieces):
        begin = body.find(piece, end)  # between two pieces stand only spaces and a comma
        end = begin + len(piece)
        yield _Record(piece, start + begin, place=place)


def _pieces(body: bytes, start: int) -> Iterator[_Record]:
    """Cut an array that is not JSON at its commas, so that what is wrong in one record costs only that one."""
    depth = place = begin = 0
    for token in _TOKEN.finditer(body):
        kind = token[0][:1]
        if kind in b"[{":
            depth += 1
            begin = begin or token.end()  # the array's own bracket
        elif kind in b"]}":
            depth -= 1
        elif token[0] == b'"':
            break  # a string without an end: where the next record begins cannot be known
        if depth == 0 or (depth == 1 and kind == b","):
            yield _piece(body, begin, token.start(), start, place)
            begin, place = token.end(), place + 1
        if depth == 0:
            break
    rest = body[begin:]
    if rest.strip():
        yield _Record(rest, start + begin, place=place)


def _piece(body: bytes, begin: int, end: int, start: int, place: int) -> _Record:
    return _Record(body[begin:end], start + begin, place=place)
