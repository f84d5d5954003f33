"""Make requests of events: records of one resource and scope together, byte for byte as they came.

An event that is a record goes out as it came in, unless its metadata has something that neither the record nor its
resource had: that becomes an attribute, or replaces one, as text. An event that is a whole request is a part of one.
Anything else becomes a log record (`polku.otlp.foreign`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from polku.contracts import Failure
from polku.emit.encode import note_unwritable, unwritable
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.otlp.attributes import find, write
from polku.otlp.fields import attribute_tag, attributes_in
from polku.otlp.foreign import foreign_record, foreign_resource, foreign_scope
from polku.otlp.metadata import KEPT_APART, OWN
from polku.otlp.signals import BY_EVENT_TYPE, BY_REQUEST_TYPE, LOGS, METRICS, Signal
from polku.otlp.values import as_text
from polku.otlp.wire import Scope, Unwrapper, join, tagged

_FRAME = 8  # bytes that stand around a record, at most
_SHORT = 200  # characters of an entry of metadata that is remembered
_SKIPPED = 64  # fields of a record
_VARINT, _LENGTH_DELIMITED, _FIXED = 0, 2, {1: 8, 5: 4}  # how fields are written, and the bytes of fixed ones


class Record(NamedTuple):
    """What an event becomes, and where it stands in the batch: a record of a scope, or (no scope) a whole request."""

    position: int
    event_id: str
    resource: bytes
    scope: bytes | None
    content: bytes


class Request(NamedTuple):
    """Some records of one signal."""

    signal: Signal
    records: list[Record]

    @property
    def ids(self) -> list[str]:
        """The ids of the events."""
        return [record.event_id for record in self.records]

    @property
    def positions(self) -> list[int]:
        """Where the events are in the batch."""
        return [record.position for record in self.records]

    @property
    def body(self) -> bytes:
        """The request, serialised."""
        groups: dict[tuple[bytes, bytes], list[bytes]] = {}
        whole: list[bytes] = []
        for record in self.records:
            if record.scope is None:
                whole.append(record.content)
            else:
                groups.setdefault((record.resource, record.scope), []).append(record.content)
        resources: dict[bytes, list[Scope]] = {}
        for (resource, scope), records in groups.items():
            resources.setdefault(resource, []).append(Scope(resource, scope, records))
        return b"".join([*join(scope for scopes in resources.values() for scope in scopes), *whole])

    def halves(self) -> list[Request]:
        """Return the two halves of a request of several records."""
        middle = len(self.records) // 2
        return [Request(self.signal, self.records[:middle]), Request(self.signal, self.records[middle:])]


def group(events: Sequence[Event], max_events: int, max_bytes: int) -> tuple[list[Request], list[Failure]]:
    """Return requests of up to `max_events` records and `max_bytes` bytes, and a failure for each event that is none.

    The failures are noted in the call's `Progress`.
    """
    open_requests: dict[Signal, tuple[Request, _Size]] = {}
    requests: list[Request] = []
    failures: list[Failure] = []
    reader = _Reader()
    for position, event in enumerate(events):
        try:
            signal, record = reader.read(position, event)
        except Exception as error:
            failures.append(unwritable(event.id, position, error))
            continue
        request, size = open_requests.get(signal) or (None, None)
        if request is None or size is None or not size.takes(record, len(request.records), max_events, max_bytes):
            request, size = Request(signal, []), _Size()
            open_requests[signal] = request, size
            requests.append(request)
            size.takes(record, 0, max_events, max_bytes)
        request.records.append(record)
    if failures:
        note_unwritable(failures)
    return requests, failures


class _Size:
    """Count the bytes of a request, with each resource and scope once."""

    def __init__(self) -> None:
        self._heads: set[tuple[bytes, bytes | None]] = set()
        self._bytes = 0
        self._latest: tuple[bytes, bytes | None] | None = None

    def takes(self, record: Record, count: int, max_events: int, max_bytes: int) -> bool:
        """Return whether one more record fits in; where it does, it is counted. The first one counts in any case."""
        more = len(record.content) + _FRAME
        latest = self._latest
        if latest is None or record.resource is not latest[0] or record.scope is not latest[1]:
            self._latest = latest = record.resource, record.scope
            if latest not in self._heads:
                more += len(record.resource) + len(record.scope or b"") + 2 * _FRAME
        if count and (count >= max_events or self._bytes + more > max_bytes):
            return False
        self._heads.add(latest)
        self._bytes += more
        return True


class _Reader:
    """Read what events hold; a resource is read once, as long as its records follow one another."""

    def __init__(self) -> None:
        self._unwrapper = Unwrapper()
        self._resource = b""
        self._known: dict[str, str] | None = None

    def read(self, position: int, event: Event) -> tuple[Signal, Record]:
        """Return the signal and the record of an event; raises what is wrong with it."""
        kind = event.event_type
        if (signal := BY_EVENT_TYPE.get(kind)) is not None:
            return signal, self._read_record(signal, position, event)
        if (signal := BY_REQUEST_TYPE.get(kind)) is not None:
            return signal, Record(position, event.id, b"", None, event.payload)
        content = foreign_record(event)
        return LOGS, Record(position, event.id, foreign_resource(event), foreign_scope(), content)

    def _read_record(self, signal: Signal, position: int, event: Event) -> Record:
        try:
            resource, scope, content = self._unwrapper.unwrap(event.payload)
            if (tag := attribute_tag(signal)) is not None:
                content = self._with_new(signal, tag, content, event.metadata, resource)
            elif metadata := {key: value for key, value in event.metadata.items() if is_attribute(key)}:
                content = with_attributes(signal, content, metadata, self._attributes_of(signal, resource))
        except DecodeError as error:
            raise RecordError(f"payload: not a record of OTLP ({error})", event_id=event.id) from None
        return Record(position, event.id, resource, scope, content)

    def _with_new(
        self, signal: Signal, tag: int, content: bytes, metadata: Mapping[str, str], resource: bytes
    ) -> bytes:
        """Return a log record or span with what is new in the metadata of its event; it is decoded only to replace."""
        attributes: list[bytes] | None = None
        added = b""
        known = self._attributes_of(signal, resource)
        for key in metadata:  # half the time of asking the map for its items
            if key in OWN:
                continue
            text = metadata[key]
            attribute = _attribute(tag, key, text)
            if attribute is None or _stands_in(content, attribute.framed):
                continue
            if attribute.key in content:  # as a key, or somewhere else
                if attributes is None:
                    attributes = attributes_in(signal, content)
                if attribute.content in attributes:
                    continue
                found = find(attributes, key)
                if found is not None:
                    if found == text:
                        continue
                    every = {key: metadata[key] for key in metadata if is_attribute(key)}
                    return with_attributes(signal, content, every, known)
            if known.get(key) != text:
                added += attribute.framed
        return content + added if added else content

    def _attributes_of(self, signal: Signal, head: bytes) -> Mapping[str, str]:
        if self._known is None or (head is not self._resource and head != self._resource):
            kind = {"logs": "ResourceLogs", "traces": "ResourceSpans", "metrics": "ResourceMetrics"}[signal.name]
            attributes = getattr(signal.messages, kind).FromString(head).resource.attributes
            self._resource, self._known = head, {one.key: as_text(one.value) for one in attributes}
        return self._known


class _Attribute(NamedTuple):
    """An entry of metadata as an attribute: its key, itself, and itself as a field of a record."""

    key: bytes
    content: bytes
    framed: bytes


def _attribute(tag: int, key: str, text: str) -> _Attribute | None:
    """Return the attribute of an entry; None where it becomes none."""
    return _known_attribute(tag, key, text) if len(key) + len(text) < _SHORT else _make_attribute(tag, key, text)


def _make_attribute(tag: int, key: str, text: str) -> _Attribute | None:
    if not is_attribute(key):
        return None
    content = write(key, text)
    return _Attribute(key.encode(), content, tagged(tag, len(content)) + content)


_known_attribute = lru_cache(4_096)(_make_attribute)


def _stands_in(record: bytes, field: bytes) -> bool:
    """Return whether a record has a field among those that stand first: False where that is not found at once.

    The same bytes may stand inside another field; so the fields before them are skipped one by one.
    """
    place = record.find(field)
    at = 0
    try:
        for _ in range(_SKIPPED):
            if at >= place:
                return at == place
            tag, at = record[at], at + 1
            kind = tag & 7
            if tag > 127:
                return False
            if kind == _LENGTH_DELIMITED:
                size, at = record[at], at + 1
                if size > 127:
                    size, at = size & 127 | record[at] << 7, at + 1
                    if record[at - 1] > 127:
                        return False
                at += size
            elif kind == _VARINT:
                while record[at] > 127:
                    at += 1
                at += 1
            else:
                at += _FIXED[kind]
    except (IndexError, KeyError):  # it is not valid, or has groups: that is not for here
        pass
    return False


def is_attribute(key: str) -> bool:
    """Return whether metadata of this name is an attribute on the way out."""
    return key not in OWN and not key.startswith(KEPT_APART)


def with_attributes(signal: Signal, content: bytes, metadata: Mapping[str, str], known: Mapping[str, str]) -> bytes:
    """Return a record with those entries of the metadata that neither it nor its resource has; the same where none is.

    The attributes of a metric are those of each of its data points.
    """
    name = {"logs": "LogRecord", "traces": "Span", "metrics": "Metric"}[signal.name]
    record = getattr(signal.messages, name).FromString(content)
    changed = False
    for holder in _holders(signal, record):
        own = {one.key: one for one in holder.attributes}
        new = {
            key: value
            for key, value in metadata.items()
            if (as_text(own[key].value) if key in own else known.get(key)) != value
        }
        if new:
            changed = True
            _set_attributes(holder, own, new)
    return bytes(record.SerializeToString()) if changed else content


def _holders(signal: Signal, record: Any) -> Iterable[Any]:
    if signal is not METRICS:
        return (record,)
    which = record.WhichOneof("data")
    points: Iterable[Any] = getattr(record, which).data_points if which else ()
    return points


def _set_attributes(holder: Any, own: Mapping[str, Any], new: Mapping[str, str]) -> None:
    for key, value in new.items():
        if key in own:
            own[key].value.string_value = value
        else:
            holder.attributes.add(key=key).value.string_value = value
