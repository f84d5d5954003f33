"""Write the events of many records at once, column by column: what protobuf and Python do for all of them in a call.

    0a <size> 0a 1a <id> 10 <time> <source, type, severity> <metadata> 32 <size> <resource, scope> <record>

A record of 190 bytes with three attributes costs 3.4 µs so, where one that is written by itself (`polku.otlp.writing`)
costs 9 µs. Records in which something is wrong or unusual are left to that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from itertools import chain, repeat
from operator import add, attrgetter
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from polku.batch.varint import varint
from polku.event.v1.event_pb2 import Severity
from polku.limits import Limits
from polku.otlp.fields import OUTCOMES, RECORD_BYTES, attribute_tag, attributes_in, log_severity, span_severity
from polku.otlp.metadata import LOOKED_AT, MARK, TRACEPARENT, Wanted, entry, fits
from polku.otlp.projection import Projection, Times, scope_with_sealed_attributes
from polku.otlp.signals import LOGS, METRICS, Signal
from polku.otlp.wire import Wrapper, tagged
from polku.otlp.writing import LATEST, Resource

_UID = b"log.record.uid"
_OWN_ENTRIES = 2  # of metadata, besides attributes: traceparent and tracestate
_LEAST_ATTRIBUTE = 5  # bytes of a field of an attribute with a key
_NUMBERS = 24  # of severities, and more than there are of statuses
_KNOWN_HEADS = 10_000
_FRAME = 3  # bytes of an event: tag and length of its id, and the tag of its payload
_RECORDS = 2  # the field of a scope
_TIME = 2  # the field of an event
_LOG = attrgetter("time_unix_nano", "severity_number", "trace_id")
_OBSERVED = attrgetter("observed_time_unix_nano")
_SPAN = attrgetter("start_time_unix_nano", "status.code", "trace_id")
_END = attrgetter("end_time_unix_nano")
_STATE = attrgetter("trace_state")
_CONTEXT = attrgetter("span_id", "flags")


class Columns(NamedTuple):
    """The events of some records: their ids, the serialised `EventPayload` of them, and for how much each counts."""

    ids: list[str]
    payload: bytes
    weights: Sequence[int]


class _Fields(NamedTuple):
    """What is read of some records: 0 where there is no time; and what stands before the metadata, by a number."""

    times: Sequence[int]
    numbers: Sequence[int]
    traces: Sequence[bytes]
    found: Sequence[Any]


class ColumnWriter:
    """Write the events of one scope's log records or spans."""

    def __init__(self, signal: Signal, resource: Resource, wrapper: Wrapper, limits: Limits, wanted: Wanted) -> None:
        self._signal = signal
        self._limits = limits
        self._wanted = wanted
        self._wrapper = wrapper
        self._room = limits.metadata_entries - resource.entries - _OWN_ENTRIES
        self._middles = _Middles(signal, resource.middle)

    def write(
        self, records: Sequence[bytes], spares: Sequence[str], now: int, taken: Collection[str]
    ) -> Columns | None:
        """Return the events; None where one of the records is to be written by itself."""
        sizes = list(map(len, records))
        if max(sizes) > RECORD_BYTES or self._room < 0:
            return None
        content = _projection(self._signal).framed(records)
        try:
            fields = self._read(content)
            metadata = self._metadata_of(content)
        except DecodeError:
            return None
        if metadata is None:
            return None
        times = self._times_of(fields, now)
        ids = self._ids_of(fields, spares)
        if ids is None or max(times) > LATEST or not set(ids).isdisjoint(taken):
            return None
        metadata = self._with_context(fields, metadata)
        return Columns(ids, self._join(records, sizes, ids, times, fields.numbers, metadata), [1] * len(ids))

    def _read(self, content: bytes) -> _Fields:
        scope = scope_with_sealed_attributes(self._signal).FromString(content)
        found = list(scope.log_records if self._signal is LOGS else scope.spans)
        times, numbers, traces = zip(*map(_LOG if self._signal is LOGS else _SPAN, found), strict=True)
        return _Fields(times, numbers, traces, found)

    def _times_of(self, fields: _Fields, now: int) -> Sequence[int]:
        if 0 not in fields.times:
            return fields.times
        others = map(_OBSERVED if self._signal is LOGS else _END, fields.found)
        return [time or other or now for time, other in zip(fields.times, others, strict=True)]

    def _ids_of(self, fields: _Fields, spares: Sequence[str]) -> list[str] | None:
        """Return the ids of the events; None where one is too long, or stands twice."""
        ids = list(spares)
        if self._signal is not LOGS:
            own = map(attrgetter("span_id"), fields.found)
            ids = [
                f"{trace.hex()}-{span.hex()}" if len(trace) == 16 and len(span) == 8 else spare
                for trace, span, spare in zip(fields.traces, own, spares, strict=True)
            ]
            if len(set(ids)) < len(ids):
                return None
        return ids if max(map(len, ids)) <= self._limits.id_bytes else None

    def _metadata_of(self, content: bytes) -> list[bytes] | None:
        """Return the entries of metadata of each record's attributes; None where one may have too many, or an id.

        All attributes become one list, in which a mark stands between those of two records.
        """
        sections = _projection(self._signal).of(content)
        joined = _marked(self._signal).join(sections)
        if self._signal is LOGS and _UID in joined:
            return None
        attributes = attributes_in(self._signal, joined)
        most = min(self._room, LOOKED_AT)
        if max(map(len, sections)) > most * _LEAST_ATTRIBUTE and _most_between(attributes) > most:
            return None
        metadata = self._entries_of(attributes).split(MARK)
        return metadata if len(metadata) == len(sections) else None

    def _entries_of(self, attributes: Sequence[bytes]) -> bytes:
        """Return the entries of some attributes; raises `DecodeError` where one of them is not valid.

        Those that are known were valid.
        """
        entries = self._wanted.entries
        kind = getattr(self._signal.messages, "LogRecord" if self._signal is LOGS else "Span")
        try:
            joined = b"".join(map(entries.__getitem__, attributes))
            kind.FromString(_framing(self._signal).framed(entries.new))
        except DecodeError:
            entries.forget_new()
            raise
        entries.new.clear()
        return joined

    def _with_context(self, fields: _Fields, metadata: list[bytes]) -> list[bytes]:
        """Return the metadata with `traceparent`s, and with the `tracestate` of spans."""
        if any(fields.traces):
            contexts = map(_CONTEXT, fields.found)
            pairs = zip(metadata, fields.traces, contexts, strict=True)
            metadata = [_parent(trace, span, flags) + entries for entries, trace, (span, flags) in pairs]
        if self._signal is not LOGS and any(states := list(map(_STATE, fields.found))):
            limits = self._limits
            written = {state: entry("tracestate", state) for state in set(states) if fits("tracestate", state, limits)}
            written[""] = b""
            metadata = [entries + written.get(state, b"") for entries, state in zip(metadata, states, strict=True)]
        return metadata

    def _join(
        self,
        records: Sequence[bytes],
        sizes: Sequence[int],
        ids: Sequence[str],
        times: Sequence[int],
        numbers: Sequence[int],
        metadata: Sequence[bytes],
    ) -> bytes:
        fronts = {size: self._wrapper.front(size)[1] for size in set(sizes)}
        ends = {size: len(front) + size for size, front in fronts.items()}
        middles = list(map(self._middles.__getitem__, numbers))
        written = _times().write(times)
        constant = _FRAME + len(middles[0])  # all are as long
        lengths = list(map(add, map(len, metadata), map(ends.__getitem__, sizes)))
        for column in (ids, written):
            lengths, constant = _with_lengths(lengths, constant, column)
        columns = (
            [_head(length + constant) for length in lengths],
            [_LENGTHS[len(one)] for one in ids] if self._signal is not LOGS else repeat(b"\x1a", len(ids)),
            map(str.encode, ids),
            written,
            middles,
            metadata,
            repeat(b"\x32", len(records)),
            map(fronts.__getitem__, sizes),
            records,
        )
        return b"".join(chain.from_iterable(zip(*columns, strict=True)))


def _with_lengths(lengths: list[int], constant: int, column: Sequence[str | bytes]) -> tuple[list[int], int]:
    """Add how long the elements of a column are: to the constant part, where all are as long."""
    own = list(map(len, column))
    if own.count(own[0]) == len(own):
        return lengths, constant + own[0]
    return list(map(add, lengths, own)), constant


def _most_between(attributes: Sequence[bytes]) -> int:
    """Return how many attributes stand between two marks at most."""
    most = count = 0
    for attribute in attributes:
        count = 0 if attribute == MARK else count + 1
        most = max(most, count)
    return most


class _Middles(dict[int, bytes]):
    """What stands between time and metadata, by the severity of log records or the status of spans; 0: of metrics."""

    def __init__(self, signal: Signal, shared: bytes) -> None:
        super().__init__()
        self._signal = signal
        self._shared = shared

    def __missing__(self, number: int) -> bytes:
        if self._signal is LOGS:
            own = bytes((0x50, log_severity(number)))
        elif self._signal is METRICS:
            own = bytes((0x50, Severity.SEVERITY_INFO))
        else:
            own = bytes((0x50, span_severity(number), 0x58, OUTCOMES.get(number, 0)))
        found = self._shared + own
        if 0 <= number <= _NUMBERS:
            self[number] = found
        return found


@cache
def _projection(signal: Signal) -> Projection:
    """Return what takes the attributes out of the records of a scope."""
    return Projection(_RECORDS, attribute_tag(signal) or 0)


@cache
def _framing(signal: Signal) -> Projection:
    """Return what makes a record of attributes alone."""
    return Projection(attribute_tag(signal) or 0, 1)


@cache
def _marked(signal: Signal) -> bytes:
    """Return the field of a record that has a mark in the place of an attribute."""
    return tagged(attribute_tag(signal) or 0, len(MARK)) + MARK


@cache
def _times() -> Times:
    return Times(_TIME)


@lru_cache(_KNOWN_HEADS)
def _head(length: int) -> bytes:
    """Return what stands before an event, and the tag of its id."""
    return b"\x0a" + varint(length) + b"\x0a"


def _parent(trace: bytes, span: bytes, flags: int) -> bytes:
    """Return the entry `traceparent`; empty where there is none."""
    if len(trace) != 16 or len(span) != 8:
        return b""
    return TRACEPARENT + f"00-{trace.hex()}-{span.hex()}-{flags & 255:02x}".encode()


_LENGTHS = [bytes((size,)) for size in range(128)]  # of ids of ours, and of spans
