"""Events as JSON: an object, an array of objects, or one object a line.

What reads them is loaded by the first request: a gateway that gets none is ready sooner, and smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ids import new_id
from polku.limits import Limits

if TYPE_CHECKING:
    from polku.ingest.json_plain import Plain

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
        from polku.ingest.json_reading import read_events

        return read_events(data, by_line=_is_by_line(context))

    def plain_reader(self, context: IngestContext, limits: Limits) -> Callable[[bytes], Plain | None]:
        """Return what reads plain records at once, and fills in what they lack; None where any is not, or breaks a
        limit.
        """
        from polku.ingest.json_plain import filling_of, read_filled

        filling = filling_of(context.source, context.cluster, new_id)
        return partial(read_filled, limits=limits, filling=filling, by_line=_is_by_line(context))


def _is_by_line(context: IngestContext) -> bool:
    return (context.format or context.source).lower() in _LINES
