"""CloudEvents 1.0 in JSON; what reads them is loaded by the first request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.limits import Limits

if TYPE_CHECKING:
    from polku.ingest.json_plain import Plain


@dataclass(frozen=True, slots=True)
class CloudEventsIngestor:
    """Read CloudEvents 1.0 in JSON: one (structured mode), an array (batched mode), or one a line.

    A bad one is an error that names its place and field; the others pass.
    """

    sources: ClassVar[tuple[str, ...]] = ("cloudevents",)
    takes_turns: ClassVar[bool] = True  # it keeps nothing, so that others may read between two records

    def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError]:
        """Yield an event or an error for each CloudEvent, in order; never raises."""
        return (result for result in self.ingest_in_slices(data, context) if result is not None)

    def ingest_in_slices(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError | None]:
        """Do what `ingest` does, with None where others may have their turn."""
        from polku.ingest.cloudevents_reading import read_events

        return read_events(data)

    def plain_reader(self, context: IngestContext, limits: Limits) -> Callable[[bytes], Plain | None]:
        """Return what reads plain CloudEvents at once, and fills in what they lack; None where any is not, or breaks a
        limit.
        """
        from polku.ingest.cloudevents_reading import plain_reader

        return plain_reader(context.source, context.cluster, limits)
