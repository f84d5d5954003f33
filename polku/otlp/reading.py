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
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from polku.batch.varint import varint
from polku.codes import Code
from polku.errors import InputError
from polku.ids import new_ids
from polku.limits import Limits
from polku.otlp.signals import Signal
from polku.otlp.wire import Scope, split
from polku.otlp.writers import ScopeWriter, writers_of
from polku.otlp.writing import Choice, Dead, FaultError, RecordWriter, Resource

__all__ = ["Choice", "Dead", "Transcoded", "transcode"]

UNKNOWN_SERVICE = "unknown_service"
_TURN_BYTES = 64 * 1024  # of records, half a millisecond or so, until others have their turn
_RECORD_COST = 160  # bytes for which a record counts besides its own
_EXPANSION = 4  # times the limit of a message that its events may take


class Transcoded(NamedTuple):
    """The events of a request as a serialised `EventPayload`, their ids, and what each counts for in an answer.

    `filled_bytes` is how much more they take than the request.
    """

    payload: bytes
    ids: list[str]
    weights: list[int]
    dead: list[Dead]
    filled_bytes: int


def transcode(
    signal: Signal, request: bytes, limits: Limits, choice: Choice, *, source: str = "", cluster: str = ""
) -> Generator[None, None, Transcoded]:
    """Make the events of a serialised request, one for each record; yields while it works, for others to have a turn.

    `source` and `cluster` stand where the resource names no service and no cluster. Raises `InputError` where the
    request as a whole is refused.
    """
    scopes = split(request, limits.batch_events)
    _check_expansion(scopes, choice, len(request), limits)
    made = _Made()
    now = time.time_ns()
    work = 0
    writers = writers_of(signal, limits, choice, source or UNKNOWN_SERVICE, cluster)
    resource: Resource | None = None
    for scope in scopes:
        writer, read = writers.of(scope, resource)
        if read is not None and read is not resource:
            resource = read
            work += len(scope.resource)
        for records, cost in _turns(scope.records):
            work += cost
            if work > _TURN_BYTES:
                work = 0
                yield
            made.add(records, writer, now)
    payload = b"".join(made.parts)
    return Transcoded(payload, list(made.ids), made.weights, made.dead, max(0, len(payload) - len(request)))


class _Made:
    """What has become of the records of a request so far."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ids: dict[str, None] = {}
        self.weights: list[int] = []
        self.dead: list[Dead] = []
        self._number = 0

    def add(self, records: Sequence[bytes], writer: ScopeWriter, now: int) -> None:
        """Make events of records, all at once where they are ordinary."""
        spares = new_ids(len(records))
        written = None if writer.columns is None else writer.columns.write(records, spares, now, self.ids.keys())
        if written is None:
            self._add_each(records, writer.each, spares, now)
        else:
            self._number += len(records)
            self.parts.append(written.payload)
            self.ids.update(dict.fromkeys(written.ids))
            self.weights += written.weights

    def _add_each(self, records: Sequence[bytes], writer: RecordWriter, spares: Sequence[str], now: int) -> None:
        for record, fields, spare in zip(records, writer.read(records), spares, strict=True):
            self._number += 1
            try:
                event_id, weight, event = writer.write(record, fields, spare, now, self.ids)
            except FaultError as fault:
                self.dead.append(writer.bury(record, spare, now, self._number - 1, fault))
                continue
            self.ids[event_id] = None
            self.weights.append(weight)
            self.parts += (b"\x0a", varint(len(event)), event)


def _turns(records: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], int]]:
    """Give what is done in one go, and what it costs."""
    costs = list(accumulate(map(len, records)))
    costs = [cost + number * _RECORD_COST for number, cost in enumerate(costs, 1)]
    start = done = 0
    while start < len(records):
        end = min(bisect_right(costs, done + _TURN_BYTES, start) + 1, len(records))
        yield records[start:end], costs[end - 1] - done
        start, done = end, costs[end - 1]


def _check_expansion(scopes: list[Scope], choice: Choice, size: int, limits: Limits) -> None:
    """Refuse a request whose resources, copied into each of their records, would take too much: before that is done."""
    times = 2 if choice.resource_attributes else 1
    copied = sum(len(scope.records) * (times * len(scope.resource) + len(scope.scope)) for scope in scopes)
    most = _EXPANSION * limits.message_bytes
    if size + copied > most:
        reason = f"request: its resources, copied into each record, take {copied} bytes, the limit is {most}"
        raise InputError(Code.TOO_LARGE, f"{reason}; send fewer records at once, or fewer attributes of the resource")
