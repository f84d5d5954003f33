"""Make events of the records of a request: straight from bytes to bytes, since most events are never looked at here.

| OTLP | Event |
|---|---|
| `log.record.uid`; trace and span id of a span; else nothing | `id`; else a ULID |
| `time_unix_nano`, else `observed_time_unix_nano`; a span's start; a metric's first point | `timestamp_unix_ns` |
| `service.name` of the resource, else `unknown_service` | `source` |
| `otel.log`, `otel.span`, `otel.metric` | `event_type` |
| `severity_number`: 1–8, 9–12, 13–16, 17–20, 21–24 | `severity`: debug, info, warning, error, critical |
| a span's status: ok, error | `outcome`: success, failure; severity info, or error |
| trace id, span id and flags; `trace_state` | metadata `traceparent`, `tracestate` (W3C) |
| attributes; those of the resource that are asked for | metadata, as far as its limits allow |
| `k8s.cluster.name` of the resource | metadata `cluster` |
| the record with its resource and scope, as they came | `payload` |

The payload is a message of OTLP itself: a ResourceLogs, ResourceSpans or ResourceMetrics of one record.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from google.protobuf.message import DecodeError

from polku.batch.receipt import Refusal
from polku.checks import shorten
from polku.codes import Code
from polku.contracts import DeadEvent
from polku.errors import InputError
from polku.event.v1.event_pb2 import Event
from polku.ids import new_ids
from polku.limits import Limits
from polku.otlp.attributes import decode, key_of, short_entry, short_text
from polku.otlp.fields import Fields, RecordReader, weight_of
from polku.otlp.signals import Signal
from polku.otlp.values import as_text
from polku.otlp.wire import Scope, TimeWriter, Wrapper, split, tagged, varint

UNKNOWN_SERVICE = "unknown_service"
_TURN_BYTES = 64 * 1024  # of records, half a millisecond or so, until others have their turn
_RECORD_COST = 640  # bytes for which a record counts besides its own
_LOOKED_AT = 1_000  # attributes of a record or resource; SDKs set 128 at most, unless they are told otherwise
_EXPANSION = 4  # times the limit of a message that its events may take
KEPT_APART = ("polku.", "kafka.")  # metadata that POLKU itself reads
OWN = frozenset(("traceparent", "tracestate", "cluster"))
_KNOWN_ENTRIES = 10_000
_KNOWN_KEYS = 1_000  # of attributes, for which it is known whether they are wanted
_SPARE = b"\x0a\x1a"  # before an id of 26 characters
_SEVERITIES = [bytes((0x50, number)) for number in range(6)]
_LATEST = 2**63 - 1


class Dead(NamedTuple):
    """A record that is refused, and for how much it counts in an answer."""

    dead: DeadEvent
    weight: int


class Transcoded(NamedTuple):
    """The events of a request as a serialised `EventPayload`, their ids, and what each counts for in an answer.

    `filled_bytes` is how much more they take than the request.
    """

    payload: bytes
    ids: list[str]
    weights: list[int]
    dead: list[Dead]
    filled_bytes: int


class FaultError(Exception):
    """Say why one record is refused."""

    def __init__(self, message: str, code: Code = Code.INVALID_RECORD) -> None:
        super().__init__(message)
        self.code = code


class Choice(NamedTuple):
    """Which attributes become metadata: of records (None: all) and of resources."""

    attributes: Collection[str] | None = None
    resource_attributes: Collection[str] = ()


def transcode(
    signal: Signal, request: bytes, limits: Limits, choice: Choice, *, source: str = "", cluster: str = ""
) -> Generator[None, None, Transcoded]:
    """Make the events of a serialised request, one for each record; yields while it works, for others to have a turn.

    `source` and `cluster` stand where the resource names no service and no cluster. Raises `InputError` where the
    request as a whole is refused.
    """
    scopes = split(request, limits.batch_events)
    _check_expansion(scopes, choice, len(request), limits)
    parts: list[bytes] = []
    weights: list[int] = []
    dead: list[Dead] = []
    ids: dict[str, None] = {}
    now = time.time_ns()
    number = work = 0
    wanted = _Wanted(choice.attributes, limits.metadata_key_bytes)
    resource: _Resource | None = None
    for scope in scopes:
        if resource is None or scope.resource is not resource.head:
            resource = _Resource(signal, scope.resource, limits, choice, source or UNKNOWN_SERVICE, cluster)
            work += len(scope.resource)
        writer = _Writer(signal, resource, scope.scope, limits, wanted)
        for records, cost in _turns(scope.records):
            work += cost
            if work > _TURN_BYTES:
                work = 0
                yield
            for record, fields, spare in zip(records, writer.read(records), new_ids(len(records)), strict=True):
                number += 1
                try:
                    event_id, weight, event = writer.write(record, fields, spare, now, ids)
                except FaultError as fault:
                    dead.append(writer.bury(record, spare, now, number - 1, fault))
                    continue
                ids[event_id] = None
                weights.append(weight)
                parts += (b"\x0a", varint(len(event)), event)
    payload = b"".join(parts)
    return Transcoded(payload, list(ids), weights, dead, max(0, len(payload) - len(request)))


def _turns(records: Sequence[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """Give what is done in one go, and what it costs."""
    some: list[bytes] = []
    cost = 0
    for record in records:
        some.append(record)
        cost += len(record) + _RECORD_COST
        if cost > _TURN_BYTES:
            yield some, cost
            some, cost = [], 0
    if some:
        yield some, cost


def _check_expansion(scopes: list[Scope], choice: Choice, size: int, limits: Limits) -> None:
    """Refuse a request whose resources, copied into each of their records, would take too much: before that is done."""
    times = 2 if choice.resource_attributes else 1
    copied = sum(len(scope.records) * (times * len(scope.resource) + len(scope.scope)) for scope in scopes)
    most = _EXPANSION * limits.message_bytes
    if size + copied > most:
        reason = f"request: its resources, copied into each record, take {copied} bytes, the limit is {most}"
        raise InputError(Code.TOO_LARGE, f"{reason}; send fewer records at once, or fewer attributes of the resource")


class _Resource:
    """What the events of one resource have in common."""

    def __init__(self, signal: Signal, head: bytes, limits: Limits, choice: Choice, source: str, cluster: str) -> None:
        self.head = head
        self.fault = ""
        found = self._read(signal)
        self.source = found.get("service.name") or source
        if len(self.source.encode()) > limits.source_bytes:
            size, most = len(self.source.encode()), limits.source_bytes
            self.fault = f"service.name={shorten(self.source)}: has {size} bytes, the limit is {most}; shorten it"
            self.source = self.source.encode()[:most].decode(errors="ignore")
        shared = {name: found[name] for name in choice.resource_attributes if name in found}
        cluster = found.get("k8s.cluster.name") or cluster
        if cluster and len(cluster.encode()) <= limits.cluster_bytes:
            shared["cluster"] = cluster
        entries = [_entry(name, value) for name, value in shared.items() if _fits(name, value, limits)]
        self.entries = len(entries)
        self.middle = _text(3, self.source) + _text(4, signal.event_type) + b"".join(entries)

    def _read(self, signal: Signal) -> dict[str, str]:
        """Return the attributes as text; notes what is wrong with the resource."""
        kind = {"logs": "ResourceLogs", "traces": "ResourceSpans", "metrics": "ResourceMetrics"}[signal.name]
        try:
            resource = getattr(signal.messages, kind).FromString(self.head).resource
        except DecodeError as error:
            self.fault = f"its resource is not valid ({error}); send it again whole"
            return {}
        return {
            one.key: one.value.string_value or as_text(one.value) for one in islice(resource.attributes, _LOOKED_AT)
        }


class _Wanted(dict[bytes, bool]):
    """Say which attributes become metadata, by key; None: all, but for those that POLKU itself writes."""

    def __init__(self, names: Collection[str] | None, key_bytes: int) -> None:
        super().__init__()
        self.entries: dict[bytes, bytes] = {}  # of metadata, by attribute: many records of a request have the same ones
        self._names = names
        self._key_bytes = key_bytes

    @property
    def is_none(self) -> bool:
        """Whether none does."""
        return self._names is not None and not self._names

    def __missing__(self, key: bytes) -> bool:
        if len(self) > _KNOWN_KEYS:
            self.clear()
        name = key.decode()
        is_other = name not in OWN and not name.startswith(KEPT_APART)
        self[key] = found = (
            is_other and 0 < len(key) <= self._key_bytes and (self._names is None or name in self._names)
        )
        return found


class _Writer:
    """Write the events of one scope's records."""

    def __init__(self, signal: Signal, resource: _Resource, scope: bytes, limits: Limits, wanted: _Wanted) -> None:
        self._signal = signal
        self._reader = RecordReader(signal)
        self._limits = limits
        self._wanted = wanted
        self._resource = resource
        self._fault = resource.fault or self._scope_fault(scope)
        self._wrapper = Wrapper(resource.head, scope)
        self._times = TimeWriter()
        self._room = limits.metadata_entries - resource.entries

    def read(self, records: Sequence[bytes]) -> list[Fields | DecodeError]:
        """Return what `write` needs of each record."""
        return self._reader.read(records)

    def write(
        self, record: bytes, fields: Fields | DecodeError, spare: str, now: int, taken: Collection[str]
    ) -> tuple[str, int, bytes]:
        """Return id, weight and bytes of the event of a record; raises `FaultError`."""
        if isinstance(fields, DecodeError):
            raise FaultError(f"not a valid record of OTLP ({fields}); send it again whole")
        if self._fault:
            raise FaultError(self._fault)
        event_id = fields.id or spare
        if event_id in taken:
            reason = f"id={shorten(event_id)} appears twice in this request; give each record an id of its own"
            raise FaultError(reason, Code.DUPLICATE_ID)
        if len(event_id) > self._limits.id_bytes and len(event_id.encode()) > self._limits.id_bytes:
            raise FaultError(f"log.record.uid={shorten(event_id)}: is over the limit of {self._limits.id_bytes} bytes")
        time_ns = fields.time_ns or now
        if time_ns > _LATEST:
            raise FaultError(f"time={time_ns} is later than the year 2262; send nanoseconds since 1970")
        parts = [_SPARE + spare.encode() if event_id is spare else _text(1, event_id), b"\x10"]
        parts += (self._times.write(time_ns), self._resource.middle)
        self._add_metadata(parts, fields)
        parts += (b"\x32", self._wrapper.front(len(record))[1], record)
        if fields.severity:
            parts.append(_SEVERITIES[fields.severity])
        if fields.outcome:
            parts.append(bytes((0x58, fields.outcome)))
        return event_id, fields.weight, b"".join(parts)

    def bury(self, record: bytes, spare: str, now: int, position: int, fault: FaultError) -> Dead:
        """Return what becomes the dead letter of a record that is refused."""
        event = Event(id=spare, timestamp_unix_ns=now, source=self._resource.source, event_type=self._signal.event_type)
        event.payload = self._wrapper.wrap(record)
        message = f"{self._signal.records}[{position}]: {fault}"
        refusal = Refusal(spare, fault.code, message)
        return Dead(DeadEvent(event, refusal), weight_of(self._signal, record))

    def _add_metadata(self, parts: list[bytes], fields: Fields) -> None:
        room = self._room
        if len(fields.trace) == 16 and len(fields.span) == 8:
            parent = f"00-{fields.trace.hex()}-{fields.span.hex()}-{fields.flags & 255:02x}"
            parts.append(_TRACEPARENT + parent.encode())
            room -= 1
        if fields.state and _fits("tracestate", fields.state, self._limits):
            parts.append(_entry("tracestate", fields.state))
            room -= 1
        wanted = self._wanted
        if wanted.is_none:
            return
        known = wanted.entries
        for content in islice(fields.attributes, _LOOKED_AT):
            if room <= 0:
                return
            entry = known.get(content)
            if entry is None:
                if len(known) >= _KNOWN_ENTRIES:
                    known.clear()
                entry = known[content] = self._entry_of(content)
            if entry:
                parts.append(entry)
                room -= 1

    def _entry_of(self, content: bytes) -> bytes:
        """Return the entry of the metadata that an attribute becomes; empty where it becomes none."""
        key = key_of(content)
        if key is not None:
            if not self._wanted[key]:
                return b""
            text = short_text(content, len(key))
            if text is not None and len(text) <= self._limits.metadata_value_bytes:
                return short_entry(content, len(key))
        return self._decoded_entry(content) or b""

    def _decoded_entry(self, content: bytes) -> bytes | None:
        """Return the entry of an attribute that is decoded; None where it does not become one."""
        key, text = decode(content, self._limits.metadata_value_bytes)
        if text is None or not self._wanted[key.encode()] or not _fits(key, text, self._limits):
            return None
        return _entry(key, text)

    def _scope_fault(self, scope: bytes) -> str:
        kind = {"logs": "ScopeLogs", "traces": "ScopeSpans", "metrics": "ScopeMetrics"}[self._signal.name]
        try:
            getattr(self._signal.messages, kind).FromString(scope)
        except DecodeError as error:
            return f"its scope is not valid ({error}); send it again whole"
        return ""


def _fits(key: str, value: str, limits: Limits) -> bool:
    """Return whether an entry of the metadata keeps the limits."""
    key_bytes, value_bytes = limits.metadata_key_bytes, limits.metadata_value_bytes
    return (
        0 < len(key) <= key_bytes
        and len(value) <= value_bytes
        and (4 * len(key) <= key_bytes or len(key.encode()) <= key_bytes)
        and (4 * len(value) <= value_bytes or len(value.encode()) <= value_bytes)
    )


def _text(number: int, text: str) -> bytes:
    content = text.encode()
    return tagged(number, len(content)) + content


def _entry(key: str, value: str) -> bytes:
    """Return one entry of an event's metadata."""
    content = _text(1, key) + _text(2, value)
    return tagged(5, len(content)) + content


_TRACEPARENT = _entry("traceparent", 55 * "-")[:-55]
