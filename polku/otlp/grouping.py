"""Make requests of events: records of one resource and scope together, byte for byte as they came.

An event that is a record goes out as it came in, unless its metadata has something that neither the record nor its
resource had: that becomes an attribute, or replaces one, as text (`polku.otlp.additions`). An event that is a whole
request is a part of one. Anything else becomes a log record (`polku.otlp.foreign`).

Events that are bytes stay bytes (`polku.otlp.sealed`), but for those that are none of the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from polku.batch.batch import Batch
from polku.batch.frames import split_frames
from polku.contracts import Failure
from polku.emit.encode import note_unwritable, unwritable
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.otlp.additions import attributes_of_resource, is_attribute, with_attributes, with_new
from polku.otlp.fields import attribute_tag
from polku.otlp.foreign import foreign_record, foreign_resource, foreign_scope
from polku.otlp.sealed import read_sealed
from polku.otlp.signals import BY_EVENT_TYPE, BY_REQUEST_TYPE, LOGS, Signal
from polku.otlp.wire import Head, Scope, Unwrapper, join

_FRAME = 8  # bytes that stand around a record, at most


class Records(NamedTuple):
    """What events become, and where these stand in the batch: records of a scope, or (no head) whole requests."""

    positions: list[int]
    heads: list[Head | None]
    contents: list[bytes]

    def add(self, position: int, head: Head | None, content: bytes) -> None:
        """Add one."""
        self.positions.append(position)
        self.heads.append(head)
        self.contents.append(content)

    def part(self, start: int, end: int) -> Records:
        """Return some of them."""
        return Records(self.positions[start:end], self.heads[start:end], self.contents[start:end])

    def in_order(self) -> Records:
        """Return them in the order of their events."""
        order = sorted(range(len(self.positions)), key=self.positions.__getitem__)
        return Records(
            [self.positions[at] for at in order], [self.heads[at] for at in order], [self.contents[at] for at in order]
        )


class Request:
    """Some records of one signal; `ids_of` returns the ids of all events of the batch."""

    def __init__(self, signal: Signal, records: Records, ids_of: Callable[[], Sequence[str]]) -> None:
        self.signal = signal
        self.records = records
        self._ids_of = ids_of

    @property
    def ids(self) -> list[str]:
        """The ids of the events."""
        every = self._ids_of()
        return [every[position] for position in self.records.positions]

    @property
    def positions(self) -> list[int]:
        """Where the events are in the batch."""
        return self.records.positions

    @property
    def body(self) -> bytes:
        """The request, serialised."""
        heads, contents = self.records.heads, self.records.contents
        first = heads[0]
        if first is not None and heads.count(first) == len(heads):
            return b"".join(join([Scope(first.resource, first.scope, contents)]))
        groups: dict[Head, list[bytes]] = {}
        whole: list[bytes] = []
        for head, content in zip(heads, contents, strict=True):
            (whole if head is None else groups.setdefault(head, [])).append(content)
        resources: dict[bytes, list[Scope]] = {}
        for head, records in groups.items():
            resources.setdefault(head.resource, []).append(Scope(head.resource, head.scope, records))
        return b"".join([*join(scope for scopes in resources.values() for scope in scopes), *whole])

    def halves(self) -> list[Request]:
        """Return the two halves of a request of several records."""
        count = len(self.records.positions)
        middle = count // 2
        return [
            Request(self.signal, self.records.part(start, end), self._ids_of)
            for start, end in ((0, middle), (middle, count))
        ]


def group(batch: Batch, max_events: int, max_bytes: int) -> tuple[list[Request], list[Failure]]:
    """Return requests of up to `max_events` records and `max_bytes` bytes, and a failure for each event that is none.

    The failures are noted in the call's `Progress`.
    """
    found: dict[Signal, Records] = {}
    others: Sequence[int] = range(len(batch))
    if batch.is_sealed:
        sealed = read_sealed(batch.payload)
        others = sealed.others
        found = {signal: Records(*records) for signal, records in sealed.records.items()}
    failures = _read_each(batch, others, found)
    if others and found and len(others) < len(batch):
        found = {signal: records.in_order() for signal, records in found.items()}
    requests = [
        Request(signal, part, lambda: batch.ids)
        for signal, records in found.items()
        for part in _parts(records, max_events, max_bytes)
    ]
    if failures:
        note_unwritable(failures)
    return sorted(requests, key=lambda request: request.positions[0]), failures


def _read_each(batch: Batch, positions: Sequence[int], found: dict[Signal, Records]) -> list[Failure]:
    """Read events one by one; return a failure for each that is no record."""
    failures: list[Failure] = []
    reader = _Reader()
    for position, event in _events_at(batch, positions):
        try:
            signal, head, content = reader.read(event)
        except Exception as error:
            failures.append(unwritable(event.id, position, error))
            continue
        if signal not in found:
            found[signal] = Records([], [], [])
        found[signal].add(position, head, content)
    return failures


def _events_at(batch: Batch, positions: Sequence[int]) -> Iterable[tuple[int, Event]]:
    if len(positions) == len(batch):
        return enumerate(batch.events)
    if not positions:
        return ()
    frames = split_frames(batch.payload)
    return [(position, Event.FromString(frames[position])) for position in positions]


def _parts(records: Records, max_events: int, max_bytes: int) -> list[Records]:
    """Cut records into those of a request each, of which the bytes are counted with each resource and scope once."""
    contents = records.contents
    count, size = len(contents), sum(map(len, contents)) + _FRAME * len(contents)
    if count <= max_events and size + sum(map(_size_of, set(records.heads))) <= max_bytes:
        return [records] if count else []
    parts: list[Records] = []
    start = size = 0
    heads: set[Head | None] = set()
    for place, (head, content) in enumerate(zip(records.heads, contents, strict=True)):
        more = len(content) + _FRAME + (0 if head in heads else _size_of(head))
        if place > start and (place - start >= max_events or size + more > max_bytes):
            parts.append(records.part(start, place))
            start, size, heads = place, 0, set()
            more = len(content) + _FRAME + _size_of(head)
        heads.add(head)
        size += more
    return [*parts, records.part(start, count)]


def _size_of(head: Head | None) -> int:
    return 2 * _FRAME if head is None else len(head.resource) + len(head.scope) + 2 * _FRAME


class _Reader:
    """Read what events hold; a resource is read once, as long as its records follow one another."""

    def __init__(self) -> None:
        self._unwrapper = Unwrapper()
        self._resource = b""
        self._known: Mapping[str, str] | None = None

    def read(self, event: Event) -> tuple[Signal, Head | None, bytes]:
        """Return the signal of an event, and its record; raises what is wrong with it."""
        kind = event.event_type
        if (signal := BY_EVENT_TYPE.get(kind)) is not None:
            return signal, *self._read_record(signal, event)
        if (signal := BY_REQUEST_TYPE.get(kind)) is not None:
            return signal, None, event.payload
        return LOGS, Head(foreign_resource(event), foreign_scope()), foreign_record(event)

    def _read_record(self, signal: Signal, event: Event) -> tuple[Head, bytes]:
        try:
            head, content = self._unwrapper.unwrap(event.payload)
            if (tag := attribute_tag(signal)) is not None:
                known = self._attributes_of(signal, head.resource)
                content = with_new(signal, tag, content, event.metadata, known)
            elif metadata := {key: value for key, value in event.metadata.items() if is_attribute(key)}:
                content = with_attributes(signal, content, metadata, self._attributes_of(signal, head.resource))
        except DecodeError as error:
            raise RecordError(f"payload: not a record of OTLP ({error})", event_id=event.id) from None
        return head, content

    def _attributes_of(self, signal: Signal, resource: bytes) -> Mapping[str, str]:
        if self._known is None or (resource is not self._resource and resource != self._resource):
            self._known = attributes_of_resource(signal, resource)
            self._resource = resource
        return self._known
