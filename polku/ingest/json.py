"""Events as JSON: an object, an array of objects, or one object a line."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from polku.aio.slices import at_once
from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ids import new_id
from polku.ingest.json_cut import LARGE
from polku.ingest.json_fields import FieldError
from polku.ingest.json_plain import Plain, filling_of, read_array, read_filled, read_lines
from polku.ingest.json_record import Members, NotJsonError, decoding, event_from_json
from polku.ingest.json_split import Readers, Record, split_lines, split_records
from polku.limits import Limits

MAX_ERRORS = 1_000
"""How many bad records of one message are told apart; reading stops there, and says so."""

_PLAIN = Readers(read_array, read_lines)
Reading = Generator[None, None, "Event | RecordError"]
Build = Callable[[bytes, Any], Generator[None, None, Event]]
"""Build an event of a record and its decoded value, in slices; raises `FieldError`."""

_ANY = Members()
_MEMBERS = Members(octets="payload", lenient=True)
_LINES = frozenset({"ndjson", "json-lines", "jsonl", "application/x-ndjson", "application/jsonl"})


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
    takes_turns: ClassVar[bool] = True  # it keeps nothing, so that others may read between two records

    def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError]:
        """Yield an event or an error for each record, in order; never raises."""
        return (result for result in self.ingest_in_slices(data, context) if result is not None)

    def ingest_in_slices(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError | None]:
        """Do what `ingest` does, with None where others may have their turn."""
        records = split_lines(data, _PLAIN) if _is_by_line(context) else split_records(data, _PLAIN)
        return read_records(records, event_from_json, _MEMBERS)

    def plain_reader(self, context: IngestContext, limits: Limits) -> Callable[[bytes], Plain | None]:
        """Return what reads plain records at once, and fills in what they lack; None where any is not, or breaks a
        limit.
        """
        filling = filling_of(context.source, context.cluster, new_id)
        return partial(read_filled, limits=limits, filling=filling, by_line=_is_by_line(context))


def _is_by_line(context: IngestContext) -> bool:
    return (context.format or context.source).lower() in _LINES


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
