"""The ingestor of OTLP: which events its requests become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from polku import checks
from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import InputError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.limits import Limits
from polku.otlp.signals import BY_NAME, Signal, check_installed
from polku.v1.gateway_pb2 import EventPayload

if TYPE_CHECKING:
    from polku.otlp.reading import Choice

READER = "otlp"
"""The source whose ingestor reads what comes in by OTLP, whatever its own sources are."""


class Granularity(StrEnum):
    """Say what becomes an event."""

    RECORD = "record"
    """Each log record, span and metric; what it becomes is in `polku.otlp.reading`."""
    REQUEST = "request"
    """Each request, unread, as `otel.logs`, `otel.traces` or `otel.metrics`: to pass it on, and no more."""


@dataclass(frozen=True, slots=True)
class OtlpIngestor:
    """Read requests of OTLP; every pipeline has one, and `.ingestor(OtlpIngestor(...))` chooses how it reads.

    `granularity` says whether each record becomes an event, or each request. `attributes` are those of records that
    become metadata: None for all of them (within the limits of metadata, which refuse nothing here), or their names;
    the fewer there are, the less a record costs. `resource_attributes` are copied from the resource. Whatever is
    chosen, the payload has the record with its resource and scope, as they came.

    Raw bytes of the source `otlp`, over any way in, are read too; their `format` is `logs`, `traces` or `metrics`.
    """

    granularity: Granularity | str = field(default=Granularity.RECORD, kw_only=True)
    attributes: Sequence[str] | None = field(default=None, kw_only=True)
    resource_attributes: Sequence[str] = field(default=(), kw_only=True)

    sources: ClassVar[tuple[str, ...]] = (READER,)
    takes_turns: ClassVar[bool] = True  # it keeps nothing, so that others may read between two records

    def __post_init__(self) -> None:
        chosen = checks.choice("OtlpIngestor", "granularity", self.granularity, Granularity)
        object.__setattr__(self, "granularity", chosen)
        for name in ("attributes", "resource_attributes"):
            names = getattr(self, name)
            if names is None and name == "attributes":
                continue
            if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
                raise checks.fault("OtlpIngestor", name, names, "write the names in a list")
            object.__setattr__(self, name, tuple(names))

    @property
    def choice(self) -> Choice:
        """Which attributes become metadata."""
        from polku.otlp.reading import Choice  # by the first request: a gateway is ready sooner

        return Choice(None if self.attributes is None else frozenset(self.attributes), self.resource_attributes)

    def check_extras(self) -> None:
        """Raise `PlanError` where the messages of OTLP are not installed, and it was asked for them."""
        if self != OtlpIngestor():
            check_installed()

    def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError]:
        """Yield the events of a serialised request; raises `InputError` where it is refused as a whole."""
        signal = signal_of(context.format)
        source = "" if context.source == READER else context.source
        if self.granularity is Granularity.REQUEST:
            yield request_event(signal, data, source)
            return
        from polku.otlp.reading import transcode

        parts = transcode(signal, data, Limits(), self.choice, source=source, cluster=context.cluster)
        while True:
            try:
                next(parts)
            except StopIteration as end:
                done = end.value
                break
        yield from EventPayload.FromString(done.payload).events
        for record in done.dead:
            refusal = record.dead.refusal
            yield RecordError(refusal.message, event_id=refusal.event_id, code=refusal.code)


def request_event(signal: Signal, data: bytes, source: str) -> Event:
    """Return the event that is a whole request."""
    return new_event(signal.request_type, source=source or READER, payload=data)


def signal_of(format: str) -> Signal:
    """Return the signal that a format names; raises `InputError`."""
    signal = BY_NAME.get(format)
    if signal is None:
        raise InputError(Code.INVALID_RECORD, f"format={format[:40]!r}: write one of {', '.join(BY_NAME)}")
    return signal
