"""Write the events of records, one record after the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

from google.protobuf.message import DecodeError

from polku.batch.receipt import Refusal
from polku.checks import shorten
from polku.codes import Code
from polku.contracts import DeadEvent
from polku.event.v1.event_pb2 import Event
from polku.limits import Limits
from polku.otlp.fields import Fields, RecordReader, weight_of
from polku.otlp.metadata import LOOKED_AT, TRACEPARENT, Wanted, entry, fits, text
from polku.otlp.signals import Signal
from polku.otlp.values import as_text
from polku.otlp.wire import TimeWriter, Wrapper

_SPARE = b"\x0a\x1a"  # before an id of 26 characters
SEVERITIES = [bytes((0x50, number)) for number in range(6)]
LATEST = 2**63 - 1
"""Nanoseconds that an event's time can have."""


class Dead(NamedTuple):
    """A record that is refused, and for how much it counts in an answer."""

    dead: DeadEvent
    weight: int


class FaultError(Exception):
    """Say why one record is refused."""

    def __init__(self, message: str, code: Code = Code.INVALID_RECORD) -> None:
        super().__init__(message)
        self.code = code


class Choice(NamedTuple):
    """Which attributes become metadata: of records (None: all) and of resources."""

    attributes: Collection[str] | None = None
    resource_attributes: Collection[str] = ()


class Resource:
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
        entries = [entry(name, value) for name, value in shared.items() if fits(name, value, limits)]
        self.entries = len(entries)
        self.middle = text(3, self.source) + text(4, signal.event_type) + b"".join(entries)

    def _read(self, signal: Signal) -> dict[str, str]:
        """Return the attributes as text; notes what is wrong with the resource."""
        kind = {"logs": "ResourceLogs", "traces": "ResourceSpans", "metrics": "ResourceMetrics"}[signal.name]
        try:
            resource = getattr(signal.messages, kind).FromString(self.head).resource
        except DecodeError as error:
            self.fault = f"its resource is not valid ({error}); send it again whole"
            return {}
        return {one.key: one.value.string_value or as_text(one.value) for one in islice(resource.attributes, LOOKED_AT)}


class RecordWriter:
    """Write the events of one scope's records."""

    def __init__(self, signal: Signal, resource: Resource, scope: bytes, limits: Limits, wanted: Wanted) -> None:
        self._signal = signal
        self._reader = RecordReader(signal)
        self._limits = limits
        self._wanted = wanted
        self._resource = resource
        self.fault = resource.fault or self._scope_fault(scope)
        self.wrapper = Wrapper(resource.head, scope)
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
        if self.fault:
            raise FaultError(self.fault)
        event_id = fields.id or spare
        if event_id in taken:
            reason = f"id={shorten(event_id)} appears twice in this request; give each record an id of its own"
            raise FaultError(reason, Code.DUPLICATE_ID)
        if len(event_id) > self._limits.id_bytes and len(event_id.encode()) > self._limits.id_bytes:
            raise FaultError(f"log.record.uid={shorten(event_id)}: is over the limit of {self._limits.id_bytes} bytes")
        time_ns = fields.time_ns or now
        if time_ns > LATEST:
            raise FaultError(f"time={time_ns} is later than the year 2262; send nanoseconds since 1970")
        parts = [_SPARE + spare.encode() if event_id is spare else text(1, event_id), b"\x10"]
        parts += (self._times.write(time_ns), self._resource.middle)
        self._add_metadata(parts, fields)
        parts += (b"\x32", self.wrapper.front(len(record))[1], record)
        if fields.severity:
            parts.append(SEVERITIES[fields.severity])
        if fields.outcome:
            parts.append(bytes((0x58, fields.outcome)))
        return event_id, fields.weight, b"".join(parts)

    def bury(self, record: bytes, spare: str, now: int, position: int, fault: FaultError) -> Dead:
        """Return what becomes the dead letter of a record that is refused."""
        event = Event(id=spare, timestamp_unix_ns=now, source=self._resource.source, event_type=self._signal.event_type)
        event.payload = self.wrapper.wrap(record)
        message = f"{self._signal.records}[{position}]: {fault}"
        refusal = Refusal(spare, fault.code, message)
        return Dead(DeadEvent(event, refusal), weight_of(self._signal, record))

    def _add_metadata(self, parts: list[bytes], fields: Fields) -> None:
        room = self._room
        if len(fields.trace) == 16 and len(fields.span) == 8:
            parent = f"00-{fields.trace.hex()}-{fields.span.hex()}-{fields.flags & 255:02x}"
            parts.append(TRACEPARENT + parent.encode())
            room -= 1
        if fields.state and fits("tracestate", fields.state, self._limits):
            parts.append(entry("tracestate", fields.state))
            room -= 1
        if self._wanted.is_none:
            return
        for content in islice(fields.attributes, LOOKED_AT):
            if room <= 0:
                return
            if found := self._wanted.entries[content]:
                parts.append(found)
                room -= 1

    def _scope_fault(self, scope: bytes) -> str:
        kind = {"logs": "ScopeLogs", "traces": "ScopeSpans", "metrics": "ScopeMetrics"}[self._signal.name]
        try:
            getattr(self._signal.messages, kind).FromString(scope)
        except DecodeError as error:
            return f"its scope is not valid ({error}); send it again whole"
        return ""
