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
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from polku.batch.receipt import Refusal
from polku.checks import shorten
from polku.codes import Code
from polku.contracts import DeadEvent
from polku.errors import InputError
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.events import new_id
from polku.limits import Limits
from polku.otlp.signals import METRICS, Signal
from polku.otlp.values import as_text
from polku.otlp.wire import Scope, Wrapper, split, tagged, varint

UNKNOWN_SERVICE = "unknown_service"
RECORD_BYTES = 256 * 1024
"""A record that is larger is not decoded: a byte of it can become thirty in memory."""
_TURN_BYTES = 64 * 1024  # of records, half a millisecond or so, until others have their turn
_RECORD_COST = 640  # bytes for which a record counts besides its own
_LOOKED_AT = 1_000  # attributes of a record or resource; SDKs set 128 at most, unless they are told otherwise
_EXPANSION = 4  # times the limit of a message that its events may take
KEPT_APART = ("polku.", "kafka.")  # metadata that POLKU itself reads
OWN = frozenset(("traceparent", "tracestate", "cluster"))
_UID = b"log.record.uid"
_LATEST = 2**63 - 1
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SEVERITIES = (
    [0]
    + 8 * [Severity.SEVERITY_DEBUG]
    + 4 * [Severity.SEVERITY_INFO]
    + 4 * [Severity.SEVERITY_WARNING]
    + 4 * [Severity.SEVERITY_ERROR]
    + 4 * [Severity.SEVERITY_CRITICAL]
)


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


class Fields(NamedTuple):
    """What of a record an event needs."""

    id: str
    time_ns: int
    severity: int
    outcome: int
    trace: bytes
    span: bytes
    flags: int
    state: str
    attributes: Iterable[Any]
    weight: int = 1


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
    generated = new_id()[:22]
    now = time.time_ns()
    number = work = 0
    resource: _Resource | None = None
    for scope in scopes:
        if resource is None or scope.resource is not resource.head:
            resource = _Resource(signal, scope.resource, limits, choice, source or UNKNOWN_SERVICE, cluster)
            work += len(scope.resource)
        writer = _Writer(signal, resource, scope.scope, limits, choice)
        for record in scope.records:
            number += 1
            work += len(record) + _RECORD_COST
            if work > _TURN_BYTES:
                work = 0
                yield
            spare = generated + _PAIRS[number >> 10 & 1023] + _PAIRS[number & 1023]
            try:
                event_id, weight, event = writer.write(record, spare, now, ids)
            except FaultError as fault:
                dead.append(writer.bury(record, spare, now, number - 1, fault))
                continue
            ids[event_id] = None
            weights.append(weight)
            parts += (b"\x0a", varint(len(event)), event)
    payload = b"".join(parts)
    return Transcoded(payload, list(ids), weights, dead, max(0, len(payload) - len(request)))


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


class _Writer:
    """Write the events of one scope's records."""

    def __init__(self, signal: Signal, resource: _Resource, scope: bytes, limits: Limits, choice: Choice) -> None:
        self._signal = signal
        self._read, name = _READERS[signal.name]
        self._kind = getattr(signal.messages, name)
        self._limits = limits
        self._wanted = choice.attributes
        self._resource = resource
        self._fault = resource.fault or self._scope_fault(scope)
        self._wrapper = Wrapper(resource.head, scope)

    def write(self, record: bytes, spare: str, now: int, taken: Collection[str]) -> tuple[str, int, bytes]:
        """Return id, weight and bytes of the event of a record; raises `FaultError`."""
        try:
            fields = self._read(record, self._kind) if len(record) <= RECORD_BYTES else _SEALED
        except DecodeError as error:
            raise FaultError(f"not a valid record of OTLP ({error}); send it again whole") from None
        if self._fault:
            raise FaultError(self._fault)
        event_id = fields.id or spare
        if event_id in taken:
            reason = f"id={shorten(event_id)} stands twice in this request; give each record an id of its own"
            raise FaultError(reason, Code.DUPLICATE_ID)
        if len(event_id) > self._limits.id_bytes and len(event_id.encode()) > self._limits.id_bytes:
            raise FaultError(f"log.record.uid={shorten(event_id)}: is over the limit of {self._limits.id_bytes} bytes")
        time_ns = fields.time_ns or now
        if time_ns > _LATEST:
            raise FaultError(f"time={time_ns} is later than the year 2262; send nanoseconds since 1970")
        body = self._wrapper.wrap(record)
        parts = [_text(1, event_id), b"\x10", varint(time_ns), self._resource.middle]
        self._add_metadata(parts, fields)
        parts += (tagged(6, len(body)), body)
        if fields.severity:
            parts.append(bytes((0x50, fields.severity)))
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
        room = self._limits.metadata_entries - self._resource.entries
        if len(fields.trace) == 16 and len(fields.span) == 8:
            parent = f"00-{fields.trace.hex()}-{fields.span.hex()}-{fields.flags & 255:02x}"
            parts.append(_TRACEPARENT + parent.encode())
            room -= 1
        if fields.state and _fits("tracestate", fields.state, self._limits):
            parts.append(_entry("tracestate", fields.state))
            room -= 1
        wanted = self._wanted
        if wanted is not None and not wanted:
            return
        for attribute in islice(fields.attributes, _LOOKED_AT):
            key = attribute.key
            if room <= 0:
                return
            if (wanted is None or key in wanted) and key not in OWN and not key.startswith(KEPT_APART):
                value = attribute.value
                text = value.string_value
                if not text and value.ByteSize() <= self._limits.metadata_value_bytes:
                    text = as_text(value)
                if _fits(key, text, self._limits):
                    parts.append(_entry(key, text))
                    room -= 1

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


def weight_of(signal: Signal, record: bytes) -> int:
    """Return for how much a record counts: a metric for its points, at least 1."""
    if signal is not METRICS:
        return 1
    try:
        return _count_points(METRICS.messages.Metric.FromString(record)) if len(record) <= RECORD_BYTES else 1
    except DecodeError:
        return 1


def _read_log(record: bytes, kind: Any) -> Fields:
    log = kind.FromString(record)
    event_id = _uid(log) if _UID in record else ""
    number = log.severity_number
    severity = _SEVERITIES[number] if 0 <= number <= 24 else 0
    time_ns = log.time_unix_nano or log.observed_time_unix_nano
    return Fields(event_id, time_ns, severity, 0, log.trace_id, log.span_id, log.flags, "", log.attributes)


def _read_span(record: bytes, kind: Any) -> Fields:
    span = kind.FromString(record)
    trace, own, code = span.trace_id, span.span_id, span.status.code
    event_id = f"{trace.hex()}-{own.hex()}" if len(trace) == 16 and len(own) == 8 else ""
    outcome = {1: Outcome.OUTCOME_SUCCESS, 2: Outcome.OUTCOME_FAILURE}.get(code, 0)
    severity = Severity.SEVERITY_ERROR if code == 2 else Severity.SEVERITY_INFO
    time_ns = span.start_time_unix_nano or span.end_time_unix_nano
    return Fields(event_id, time_ns, severity, outcome, trace, own, span.flags, span.trace_state, span.attributes)


def _read_metric(record: bytes, kind: Any) -> Fields:
    metric = kind.FromString(record)
    which = metric.WhichOneof("data")
    points: Sequence[Any] = getattr(metric, which).data_points if which else ()
    time_ns = points[0].time_unix_nano if points else 0
    attributes = points[0].attributes if len(points) == 1 else ()
    info = Severity.SEVERITY_INFO
    return Fields("", time_ns, info, 0, b"", b"", 0, "", attributes, max(1, len(points)))


def _count_points(metric: Any) -> int:
    which = metric.WhichOneof("data")
    return max(1, len(getattr(metric, which).data_points)) if which else 1


def _uid(log: Any) -> str:
    found = (one.value.string_value for one in log.attributes if one.key == "log.record.uid")
    return next(found, "")


_SEALED = Fields("", 0, 0, 0, b"", b"", 0, "", ())
_READERS: dict[str, tuple[Callable[[bytes, Any], Fields], str]] = {
    "logs": (_read_log, "LogRecord"),
    "traces": (_read_span, "Span"),
    "metrics": (_read_metric, "Metric"),
}


def _text(number: int, text: str) -> bytes:
    content = text.encode()
    return tagged(number, len(content)) + content


def _entry(key: str, value: str) -> bytes:
    """Return one entry of an event's metadata."""
    content = _text(1, key) + _text(2, value)
    return tagged(5, len(content)) + content


_TRACEPARENT = _entry("traceparent", 55 * "-")[:-55]
