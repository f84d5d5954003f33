"""From the bytes of the events of many records to those records again, column by column.

All events are parsed as if they were one: protobuf puts what stands in a repeated field of several messages into one
list, so that an entry of metadata of a thousand events is a slice of it. Which entries are of which event is known by
a mark, a secret of this process, that is put behind the fields of each. Events that do not all have the same entries
are left to `polku.kafka.scanning`, which takes them one by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeVar, overload

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from polku.batch.frames import join_with_field
from polku.batch.message_classes import BYTES, INT64, MESSAGE, Field, message_classes
from polku.event.v1.event_pb2 import Event
from polku.kafka import fields
from polku.kafka.client import UnfitError
from polku.kafka.encoding import NAMES
from polku.kafka.fields import Headers, decode_headers
from polku.kafka.record import Record, check_partition, check_topic
from polku.kafka.wire import METADATA, PAYLOAD, text

_MOST, _LARGE = 1_024, 4_096  # entries that are remembered, and bytes of one that is not
_LATEST_DIGITS = 18
_MARK = os.urandom(24)
_MARKS = text(METADATA, _MARK) + text(PAYLOAD, _MARK)
_NEEDED = (NAMES[fields.PARTITION], NAMES[fields.TIMESTAMP])
_REFUSED = frozenset((NAMES[fields.TOMBSTONE], NAMES[fields.KEY_BASE64]))
_T = TypeVar("_T")


def _classes() -> dict[str, Any]:
    kept = [Field(number, f"field_{number}", BYTES, repeated=True) for number in (1, 3, 4)]
    read = [Field(5, "metadata", BYTES, repeated=True), Field(6, "payload", BYTES, repeated=True)]
    every = {"Fields": [*kept, Field(2, "time", INT64), *read], "All": [Field(1, "events", MESSAGE, "Fields")]}
    return message_classes("polku.kafka.columns", every)


_ALL = _classes()["All"]


class _UnusualError(Exception):
    """Say that events are not such as can be read together."""


class _Columns(NamedTuple):
    topics: Sequence[str]
    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    headers: Sequence[Headers]
    partitions: Sequence[int]
    timestamps: Sequence[int]


class RecordColumns(Sequence[Record]):
    """The records of some events of a batch, the first of which stands at `start` there."""

    def __init__(self, frames: Sequence[bytes], start: int, columns: tuple[Sequence[Any], ...]) -> None:
        self._frames, self._start, self._columns = frames, start, columns

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> RecordColumns: ...
    def __getitem__(self, index: int | slice) -> Record | RecordColumns:
        if isinstance(index, slice):
            columns = tuple(column[index] for column in self._columns)
            return RecordColumns(self._frames[index], self._start + range(len(self))[index].start, columns)
        at = range(len(self))[index]
        (row,) = self[at : at + 1].rows()
        event_id = Event.FromString(self._frames[at]).id
        return Record(*row)._replace(event_id=event_id, position=self._start + at)

    def rows(self) -> Iterable[tuple[Any, ...]]:
        """Return what `Record`s have, in the same order, but for the ids and positions of events."""
        topics, keys, values, headers, *places = self._columns
        return zip(repeat(""), topics, keys, values, headers, repeat(0), *places, strict=False)


class ColumnReader:
    """Read the events of records; `topic` is the topic to send to, empty for that which each record had."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._topics = _Known(NAMES[fields.TOPIC], lambda value: check_topic(value.decode()))
        self._partitions = _Known(NAMES[fields.PARTITION], lambda value: check_partition(value.decode()))
        self._stamps = _Known(NAMES[fields.TIMESTAMP], _timestamp)
        self._headers = _Known(NAMES[fields.HEADERS], decode_headers)

    def read(self, frames: Sequence[bytes], start: int) -> RecordColumns | None:
        """Return the records of events; None where they have to be read one by one."""
        try:
            found = _ALL.FromString(join_with_field(frames, _MARKS)).events
            if len(UnknownFieldSet(found)):
                return None
            metadata, payloads = list(found.metadata), list(found.payload)
            columns = self._columns(_by_name(metadata, len(frames)), _unmarked(payloads, len(frames), 1)[0])
        except (DecodeError, IndexError, ValueError, UnfitError, _UnusualError):
            return None
        return RecordColumns(frames, start, columns)

    def _columns(self, by_name: dict[bytes, list[bytes]], values: list[bytes]) -> _Columns:
        if not _REFUSED.isdisjoint(by_name) or any(name not in by_name for name in _NEEDED):
            raise _UnusualError
        count = len(values)
        topics: Sequence[str] = [self._topic] * count
        if not self._topic:
            topics = self._topics.read(by_name[NAMES[fields.TOPIC]]) if NAMES[fields.TOPIC] in by_name else []
        headers, keys = by_name.get(NAMES[fields.HEADERS]), by_name.get(NAMES[fields.KEY])
        columns = _Columns(
            topics,
            [None] * count if keys is None else _values(NAMES[fields.KEY], keys),
            values,
            [[]] * count if headers is None else self._headers.read(headers),
            self._partitions.read(by_name[NAMES[fields.PARTITION]]),
            self._stamps.read(by_name[NAMES[fields.TIMESTAMP]]),
        )
        if len(topics) != count:
            raise _UnusualError
        return columns


class _Known(dict[bytes, _T]):
    """What entries of metadata of one name say, by their bytes."""

    def __init__(self, name: bytes, decode: Callable[[bytes], _T]) -> None:
        super().__init__()
        self._name, self._decode = name, decode

    def __missing__(self, entry: bytes) -> _T:
        found = self._decode(_value(self._name, entry))
        if len(entry) <= _LARGE:
            if len(self) >= _MOST:
                self.clear()
            self[entry] = found
        return found

    def read(self, entries: list[bytes]) -> list[_T]:
        """Return what these entries say."""
        if entries.count(entries[0]) == len(entries):
            return [self[entries[0]]] * len(entries)
        return list(map(self.__getitem__, entries))


def _unmarked(column: list[bytes], count: int, width: int) -> list[list[bytes]]:
    """Return the columns of a list in which the mark follows each `width` elements, `count` times."""
    step = width + 1
    if len(column) != count * step or column[width::step].count(_MARK) != count:
        raise _UnusualError
    return [column[at::step] for at in range(width)]


def _by_name(metadata: list[bytes], count: int) -> dict[bytes, list[bytes]]:
    """Return the entries of each name; all events must have the same names in the same order."""
    columns = _unmarked(metadata, count, metadata.index(_MARK))
    by_name: dict[bytes, list[bytes]] = {}
    for column in columns:
        name = _name(column[0])
        if name in by_name or not _all_begin(column, name):
            raise _UnusualError
        by_name[name] = column
    return by_name


def _all_begin(column: list[bytes], name: bytes) -> bool:
    """Return whether all elements begin so: where the least and the greatest do, so do those between them."""
    is_constant = column.count(column[0]) == len(column)
    return is_constant or (min(column).startswith(name) and max(column).startswith(name))


def _name(entry: bytes) -> bytes:
    """Return how an entry begins, up to the length of its value."""
    end = 2 + entry[1]
    if entry[0] != 0x0A or entry[1] > 127 or entry[end] != 0x12:
        raise _UnusualError
    return entry[: end + 1]


def _values(name: bytes, entries: list[bytes]) -> list[bytes | None]:
    """Return the values of entries of this name."""
    at, start = len(name), len(name) + 1
    return [entry[start:] if entry[at] == len(entry) - start else _value(name, entry) for entry in entries]


def _value(name: bytes, entry: bytes) -> bytes:
    """Return the value of an entry of this name, which must be all that follows."""
    if not entry.startswith(name):
        raise _UnusualError
    at, size, shift = len(name), 0, 0
    while (byte := entry[at]) > 127:
        size |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
    if at + 1 + (size | byte << shift) != len(entry):
        raise _UnusualError
    return entry[at + 1 :]


def _timestamp(digits: bytes) -> int:
    if not digits.isdigit() or not digits.isascii() or len(digits) > _LATEST_DIGITS or digits[0] == 0x30:
        raise _UnusualError
    return int(digits)
