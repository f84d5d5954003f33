"""Read the records of JSON one by one, and say what is wrong with each that is no event."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from polku.aio.slices import at_once
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest.json_cut import LARGE
from polku.ingest.json_fields import FieldError
from polku.ingest.json_plain import read_array, read_lines
from polku.ingest.json_record import Members, NotJsonError, decoding, event_from_json
from polku.ingest.json_split import Readers, Record, split_lines, split_records

MAX_ERRORS = 1_000
"""How many bad records of one message are told apart; reading stops there, and says so."""

_PLAIN = Readers(read_array, read_lines)
Reading = Generator[None, None, "Event | RecordError"]
Build = Callable[[bytes, Any], Generator[None, None, Event]]
"""Build an event of a record and its decoded value, in slices; raises `FieldError`."""

_ANY = Members()
_MEMBERS = Members(octets="payload", lenient=True)


def read_events(data: bytes, *, by_line: bool) -> Iterator[Event | RecordError | None]:
    """Yield an event or an error for each record whose fields are those of the Event, and None between slices."""
    records = split_lines(data, _PLAIN) if by_line else split_records(data, _PLAIN)
    return read_records(records, event_from_json, _MEMBERS)


def read_records(
    records: Iterator[Record | Event | None], build: Build, of: Members = _ANY
) -> Iterator[Event | RecordError | None]:
    """Decode records that are no events yet, and build events of bytes and decoded values; `build` raises `FieldError`.

    None stands where others may have their turn.
    """
    errors = 0
    for record in records:
        if record is None or isinstance(record, Event):
            yield record
            continue
        if errors == MAX_ERRORS:
            message = f"{errors} records before this one are bad; this one and the rest were not read"
            yield RecordError(message, line=record.line, offset=record.offset)
            return
        reading = _reading(record, build, of)
        result = at_once(reading) if len(record.data) <= LARGE else (yield from _pausing(reading))
        errors += isinstance(result, RecordError)
        yield result


def _pausing(reading: Reading) -> Generator[None, None, Event | RecordError]:
    yield
    return (yield from reading)


def _reading(record: Record, build: Build, of: Members) -> Reading:
    fields: object = None
    try:
        fields = yield from decoding(record.data, of)
        return (yield from build(record.data, fields))
    except NotJsonError as error:
        return _refuse(record, error.message, error.offset)
    except FieldError as error:
        given = fields.get("id") if isinstance(fields, dict) else None
        return _refuse(record, str(error), 0, given if isinstance(given, str) else "")


def _refuse(record: Record, message: str, offset: int, event_id: str = "") -> RecordError:
    line = record.line
    if record.place is not None:
        message = f"[{record.place}]: {message}"
    elif line is None and offset:
        line = record.data.count(b"\n", 0, offset) + 1
    return RecordError(message, event_id=event_id, line=line, offset=record.offset + offset)
