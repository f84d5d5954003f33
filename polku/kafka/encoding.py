"""From many records of one partition to the bytes of their events, with no message object for any of them.

What repeats is encoded once: topic and partition, times, keys, and equal lists of headers.

The event of a record (`decode="record"`) has its fields in this order, which `polku.kafka.scanning` reads again:

    id; offset; source, type, cluster, topic, partition, tombstone; time, timestamp, append; headers; key; payload
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from operator import lt
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from polku.batch.varint import varint
from polku.contracts import Pulled
from polku.event.v1.event_pb2 import Event
from polku.kafka import fields
from polku.kafka.fields import MAX_KEY_BYTES, RESERVED, Field, Headers, headers_text, key_metadata
from polku.kafka.wire import (
    EVENT_HEADS,
    ID,
    PAYLOAD_HEADS,
    SOURCE,
    TABLED,
    TIME,
    TYPE,
    EntryName,
    entry,
    event_head,
    name_field,
    payload_head,
    text,
)
from polku.pull.block import Extent, PulledBlock

APPENDED = 2
"""librdkafka's TIMESTAMP_LOG_APPEND_TIME."""

LATEST = 2**63 // 1_000_000 - 1
"""The last time in milliseconds that an event's nanoseconds have room for."""

NAMES = {name: name_field(name.encode()) for name in RESERVED}
"""How the entries of reserved metadata begin."""

APPEND = entry(NAMES[fields.TIMESTAMP_TYPE], b"append")
TOMBSTONE = entry(NAMES[fields.TOMBSTONE], b"true")
RECORD_TYPE, TOMBSTONE_TYPE = "kafka.record", "kafka.tombstone"

_MOST = 1_024  # encodings of one kind that are remembered
_LARGE = 4_096  # bytes of one that is not
_UNKNOWN = b"?"  # no entry
_DIGITS = [f"{number:03}" for number in range(1_000)]
_RESERVED_SIGN = b"kafka."
_RESERVED = frozenset(RESERVED)
_T = TypeVar("_T")
_Read = Callable[[Any], "Pulled | None"]


class Known:
    """Remember how times, keys and headers are encoded, for all partitions of a source."""

    def __init__(self) -> None:
        self.times: dict[tuple[int, int], bytes] = {}
        self.keys: dict[bytes | None, bytes] = {None: b""}
        self.headers: dict[object, bytes] = {}


class _Numbers(NamedTuple):
    """What is made of offsets: how events begin (their ids), the entries of the offsets, and the ids as text."""

    starts: list[bytes]
    offsets: list[bytes]
    ids: list[str]


class UnusualError(Exception):
    """Say that a record has something that only the way of single records takes."""


class RecordEncoder:
    """Serialise the events of records of one partition; `encode` returns None where one of them is unusual.

    Unusual is a record without a time, or whose time is before 1970: each of its block is read by itself then.
    """

    def __init__(
        self,
        place: tuple[str, int],
        known: Known,
        read: _Read,
        *,
        source: str,
        cluster: str,
        chosen: frozenset[str],
        kept: frozenset[Field],
    ) -> None:
        topic, partition = place
        self._known, self._read, self._kept = known, read, kept
        self._chosen = {name: EntryName(name) for name in chosen}
        self._most_entries = len(RESERVED) + len(chosen) + 1
        self._longest_name = max([len(name.encode()) for name in (*chosen, *RESERVED)])
        self._name = f"{topic}-{partition}-"
        where = {fields.TOPIC: topic if Field.TOPIC in kept else "", fields.PARTITION: ""}
        where[fields.PARTITION] = str(partition) if Field.PARTITION in kept else ""
        self._place = b"".join([entry(NAMES[name], value.encode()) for name, value in where.items() if value])
        self._cluster = entry(name_field(b"cluster"), cluster.encode()) if cluster else b""
        self._record, self._tombstone = self._constants(source)
        self._keeps_key, self._keeps_offset = Field.KEY in kept, Field.OFFSET in kept
        self._keeps_headers, self._keeps_time = Field.HEADERS in kept, Field.TIMESTAMP in kept

    def _constants(self, source: str) -> tuple[bytes, bytes]:
        """Return what all events of the partition have, those of records and those of tombstones."""
        begin = text(SOURCE, source.encode())
        record = begin + text(TYPE, RECORD_TYPE.encode()) + self._cluster + self._place
        return record, begin + text(TYPE, TOMBSTONE_TYPE.encode()) + self._cluster + self._place + TOMBSTONE

    def encode(self, messages: Sequence[Any]) -> PulledBlock | None:
        """Return the events of records, which stand in order."""
        try:
            return self._assemble(messages)
        except UnusualError:
            return None

    def _assemble(self, messages: Sequence[Any]) -> PulledBlock:
        numbers = self._numbers([message.offset() for message in messages])
        stamps = self._stamps([message.timestamp() for message in messages])
        headers = self._header_parts([message.headers() for message in messages])
        keys = self._key_parts(messages)
        values: list[bytes | None] = [message.value() for message in messages]
        constants, heads, contents = self._contents(values)
        starts = (numbers.starts, numbers.offsets) if self._keeps_offset else (numbers.starts,)
        payload, sizes = _join(*starts, constants, stamps, headers, keys, heads, contents)
        ids = numbers.ids
        longest = max(32, max(map(len, headers)), max(map(len, keys)))
        extent = Extent(len(ids[-1]), len(TOMBSTONE_TYPE), self._most_entries, self._longest_name, longest)
        return PulledBlock(payload, sizes, self._single(messages), ids, extent)

    def _stamps(self, times: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the times of events, with the timestamps where these are kept."""
        known = list(map(self._known.times.get, times, repeat(b"")))
        return [stamp or self._time(time) for stamp, time in zip(known, times, strict=True)] if b"" in known else known

    def _key_parts(self, messages: Sequence[Any]) -> list[bytes]:
        """Return the entries of keys."""
        if not self._keeps_key:
            return [b""] * len(messages)
        keys = [message.key() for message in messages]
        known = list(map(self._known.keys.get, keys, repeat(_UNKNOWN)))
        if _UNKNOWN not in known:
            return known
        return [self._key(key) if part is _UNKNOWN else part for part, key in zip(known, keys, strict=True)]

    def _header_parts(self, headers: Sequence[Headers | None]) -> list[bytes]:
        """Return the entries of the headers of each record; those of many are often equal."""
        first = headers[0]
        part = self._headers(first) if first else b""
        if headers.count(first) == len(headers):
            return [part] * len(headers)
        parts: list[bytes] = []
        for pairs in headers:
            if pairs != first:
                first, part = pairs, self._headers(pairs) if pairs else b""
            parts.append(part)
        return parts

    def _contents(self, values: list[bytes | None]) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """Return of each record its constant part, and the head of its value and that: empty where it has none."""
        contents = [value or b"" for value in values]
        heads = _heads(PAYLOAD_HEADS, payload_head, list(map(len, contents)))
        constants = [self._record] * len(values)
        if None in values:
            for at in [at for at, value in enumerate(values) if value is None]:
                constants[at], heads[at] = self._tombstone, b""
        return constants, heads, contents

    def _numbers(self, offsets: list[int]) -> _Numbers:
        """Return what is made of offsets, which must rise.

        Those of a thousand of them in a row differ in the last three digits.
        """
        if not all(map(lt, offsets, islice(offsets, 1, None))):
            raise UnusualError
        numbers = _Numbers([], [], [])
        start = 0
        while start < len(offsets):
            thousand = offsets[start] // 1_000
            end = bisect_left(offsets, 1_000 * (thousand + 1), start)
            if thousand:
                lasts = [offset - 1_000 * thousand for offset in offsets[start:end]]
                texts = list(map(_DIGITS.__getitem__, lasts))
                self._add_numbers(numbers, str(thousand), texts)
            else:
                for offset in offsets[start:end]:
                    self._add_numbers(numbers, str(offset), [""])
            start = end
        return numbers

    def _add_numbers(self, numbers: _Numbers, begin: str, ends: list[str]) -> None:
        """Add what is made of offsets that begin with the same digits."""
        digits = len(begin) + len(ends[0])
        first = self._name + begin
        head = ID + varint(len(self._name.encode()) + digits) + first.encode()
        encoded = list(map(str.encode, ends))
        numbers.starts.extend(map(head.__add__, encoded))
        numbers.ids.extend(map(first.__add__, ends))
        if self._keeps_offset:
            middle = entry(NAMES[fields.OFFSET], b"0" * digits)[:-digits] + begin.encode()
            numbers.offsets.extend(map(middle.__add__, encoded))

    def _single(self, messages: Sequence[Any]) -> Callable[[], list[Pulled]]:
        """Return what reads the same records one by one."""
        read = self._read
        return lambda: [record for message in messages if (record := read(message)) is not None]

    def _time(self, time: tuple[int, int]) -> bytes:
        kind, milliseconds = time
        if not kind or not 0 < milliseconds <= LATEST:
            raise UnusualError
        return _remember(self._known.times, time, TIME + varint(milliseconds * 1_000_000) + self._timestamp(time))

    def _timestamp(self, time: tuple[int, int]) -> bytes:
        if not self._keeps_time:
            return b""
        kind, milliseconds = time
        return entry(NAMES[fields.TIMESTAMP], b"%d" % milliseconds) + (APPEND if kind == APPENDED else b"")

    def _key(self, key: bytes) -> bytes:
        ((name, value),) = key_metadata(key).items()
        return _remember(self._known.keys, key, entry(NAMES[name], value.encode()))

    def _headers(self, pairs: Headers) -> bytes:
        """Return the entries of a record's headers: all of them as one, and those that were chosen."""
        what = tuple(pairs)
        encoded = self._known.headers.get(what)
        if encoded is None:
            whole = entry(NAMES[fields.HEADERS], headers_text(pairs).encode()) if self._keeps_headers else b""
            encoded = _remember(self._known.headers, what, whole + self._chosen_entries(pairs))
        return encoded

    def _chosen_entries(self, pairs: Headers, but: frozenset[str] = frozenset()) -> bytes:
        names = self._chosen
        found = [(name, value) for name, value in pairs if name in names and name not in but]
        if len(found) > 1:  # of several alike the last
            found = list(dict(found).items())
        return b"".join([names[name].entry(_as_text(value)) for name, value in found])


class EventEncoder(RecordEncoder):
    """Put what records have into the bytes of the events that are their values (`decode="event"`).

    What the events have themselves stays: all else is put in front of their bytes. Of entries of the same name the last
    one counts, and nothing behind them can make an event of bytes that are none. Those where a name stands in their
    bytes are parsed, to see whether it is one. Unusual are records without a value, and with a key that is too long.
    """

    def _assemble(self, messages: Sequence[Any]) -> PulledBlock:
        values = [message.value() for message in messages]
        if None in values:
            raise UnusualError
        keys = self._key_parts(messages)
        if self._kept - {Field.KEY}:
            keys = [key + self._more(message, message.headers()) for key, message in zip(keys, messages, strict=True)]
        takes_headers = self._chosen or self._keeps_headers
        headers = [message.headers() for message in messages] if takes_headers else [None] * len(messages)
        own = self._header_parts(headers)
        if signs := self._signs(values):
            for at in [at for at, value in enumerate(values) if any(sign in value for sign in signs)]:
                own[at], values[at] = self._with_own(values[at], headers[at], keys[at])
        payload, sizes = _join(own, keys, values)
        return PulledBlock(payload, sizes, self._single(messages))

    def _header_parts(self, headers: Sequence[Headers | None]) -> list[bytes]:
        parts = super()._header_parts(headers)
        return [self._cluster + part for part in parts] if self._cluster else parts

    def _headers(self, pairs: Headers) -> bytes:
        return self._chosen_entries(pairs)

    def _signs(self, values: list[bytes]) -> list[bytes]:
        """Return which names of metadata that records may have stand anywhere in the values."""
        content = b"".join(values)
        names = [_RESERVED_SIGN, *(name.encode() for name in self._chosen), *([b"cluster"] if self._cluster else [])]
        return [name for name in names if name in content]

    def _with_own(self, value: bytes, pairs: Headers | None, of_record: bytes) -> tuple[bytes, bytes]:
        """Return what goes in front of an event that may have metadata of the same names, and the event."""
        try:
            event = Event.FromString(value)
        except DecodeError:
            raise UnusualError from None
        metadata = event.metadata
        own = frozenset(metadata)
        if of_record and not _RESERVED.isdisjoint(own):
            for name in _RESERVED & own:  # those of a record on its way here are not those of this one
                del metadata[name]
            value = event.SerializeToString()
        before = b"" if "cluster" in own else self._cluster
        return before + (self._chosen_entries(pairs, own) if pairs else b""), value

    def _key(self, key: bytes) -> bytes:
        if len(key) > MAX_KEY_BYTES:
            raise UnusualError
        return super()._key(key)

    def _more(self, message: Any, pairs: Headers | None) -> bytes:
        """Return the entries of the other fields that are kept."""
        kind, milliseconds = message.timestamp()
        parts = [self._place, self._timestamp((kind, milliseconds)) if kind else b""]
        if self._keeps_offset:
            parts.append(entry(NAMES[fields.OFFSET], b"%d" % message.offset()))
        if self._keeps_headers and pairs:
            parts.append(entry(NAMES[fields.HEADERS], headers_text(pairs).encode()))
        return b"".join(parts)


def _join(*columns: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """Return the `EventPayload` of events, of whose bytes each column has a part, and their sizes."""
    events = list(map(b"".join, zip(*columns, strict=True)))
    sizes = list(map(len, events))
    parts = [b""] * (2 * len(events))
    parts[0::2], parts[1::2] = _heads(EVENT_HEADS, event_head, sizes), events
    return b"".join(parts), sizes


def _heads(table: Sequence[bytes], make: Callable[[int], bytes], sizes: Sequence[int]) -> list[bytes]:
    """Return what stands in front of fields of these sizes."""
    return list(map(table.__getitem__ if max(sizes) < TABLED else make, sizes))


def _remember(known: dict[_T, bytes], what: _T, encoded: bytes) -> bytes:
    if len(encoded) <= _LARGE:
        if len(known) >= _MOST:
            known.clear()
        known[what] = encoded
    return encoded


def _as_text(value: bytes | None) -> bytes:
    """Return bytes as UTF-8."""
    if value is None or value.isascii():
        return value or b""
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace").encode()
    return value
