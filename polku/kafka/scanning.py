"""From the bytes of the event of a record to that record again, without parsing them.

`RecordEncoder` writes such events with their fields in one order. Bytes in that order are read in one scan, in which
whatever repeats from record to record is compared as a whole; all others are left to the parser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from polku.kafka import fields
from polku.kafka.client import UnfitError
from polku.kafka.encoding import APPEND, NAMES, RECORD_TYPE, TOMBSTONE, TOMBSTONE_TYPE
from polku.kafka.fields import Headers, decode_base64, decode_headers
from polku.kafka.record import Record, check_partition, check_topic
from polku.kafka.wire import EntryName, name_field, text

_ID, _SOURCE, _TYPE, _METADATA = 0x0A, 0x1A, 0x22, 0x2A
_ENTRY, _PAYLOAD = b"\x2a", b"\x32"
_TIME_BYTES = 10  # of a time between 1988 and 2262, with its tag
_TIMESTAMP = EntryName(fields.TIMESTAMP).entry(b"0" * 13)[:-13]  # of the years 2001 to 2262
_STAMP_BYTES = _TIME_BYTES + len(_TIMESTAMP) + 13
_TYPES = {text(b"\x22", RECORD_TYPE.encode()): False, text(b"\x22", TOMBSTONE_TYPE.encode()): True}
_CLUSTER = name_field(b"cluster")
_KEY, _KEY_BASE64, _HEADERS = NAMES[fields.KEY], NAMES[fields.KEY_BASE64], NAMES[fields.HEADERS]
_OFFSET = NAMES[fields.OFFSET]
_KEY_BYTES = len(_KEY)
_OFFSET_BYTES = 2 + len(_OFFSET) + 1 + 19
_KAFKA = b"kafka."
_MOST, _LARGE = 1_024, 4_096  # entries that are remembered, and bytes of one that is not

_new_record: Callable[[tuple[object, ...]], Record] = partial(tuple.__new__, Record)


class _Place(NamedTuple):
    """Where the record of an event goes, and whether it has a value."""

    topic: str
    partition: int
    is_tombstone: bool


class _UnusualError(Exception):
    """Say that an event is not written as `RecordEncoder` writes those of records."""


class Scanner:
    """Read the events of records; `topic` is the topic to send to, empty for that which each record had."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._stamps: dict[bytes, int] = {}
        self._headers: dict[bytes, Headers] = {}

    def scan(self, frames: Sequence[bytes], first: int = 0) -> list[Record | None]:
        """Return the records of events, the first of which stands at `first` in its batch; None where one is parsed."""
        records: list[Record | None] = []
        # What stood in the event before: in front of its time, what that says, and between time and key.
        constant, place, between = b"\xff", _Place("", 0, False), b"\xff"
        headers: Headers = []
        stamps = self._stamps
        for position, frame in enumerate(frames, first):
            try:
                at = 2 + frame[1]
                event_id = frame[2:at].decode()
                if frame[at] == _METADATA and frame.startswith(_OFFSET, at + 2):
                    at += 2 + frame[at + 1]
                if not frame.startswith(constant, at) or frame[0] != _ID:
                    constant, place = self._read_constant(frame, at)
                at += len(constant)
                stamp = frame[at : at + _STAMP_BYTES]
                timestamp = stamps.get(stamp) or self._read_stamp(stamp)
                at += _STAMP_BYTES
                start, key = at + len(between), None
                is_same = frame.startswith(between, at)
                if is_same and frame.startswith(_KEY, start + 2) and frame[start + 1] < 128:
                    middle, start = start + _KEY_BYTES + 3, start + 2 + frame[start + 1]
                    key = frame[middle:start]
                    if frame[middle - 1] != start - middle:
                        raise _UnusualError
                elif not is_same or frame[start : start + 1] == _ENTRY:
                    headers, key, middle, start = self._read_entries(frame, at)
                    between = frame[at:middle]
                topic, partition, is_tombstone = place
                if is_tombstone:
                    value = None
                    if start != len(frame):
                        raise _UnusualError
                elif frame[start : start + 1] == _PAYLOAD and start + 2 + frame[start + 1] == len(frame) < start + 130:
                    value = frame[start + 2 :]
                else:
                    value = _payload(frame, start)
                records.append(_new_record((event_id, topic, key, value, headers, position, partition, timestamp)))
            except (IndexError, ValueError, UnfitError, _UnusualError):
                constant = between = b"\xff"
                records.append(None)
        return records

    def _read_constant(self, frame: bytes, start: int) -> tuple[bytes, _Place]:
        """Read what the events of a partition have in common, up to their time."""
        at = _after(frame, start, _SOURCE)
        end = _after(frame, at, _TYPE)
        is_tombstone = _TYPES.get(frame[at:end])
        if is_tombstone is None or frame[0] != _ID or start > 129 + _OFFSET_BYTES:
            raise _UnusualError
        name, value, at = _entry(frame, end)
        if name == _CLUSTER:
            name, value, at = _entry(frame, at)
        partition_name, partition, at = _entry(frame, at)
        if name != NAMES[fields.TOPIC] or partition_name != NAMES[fields.PARTITION] or not partition.isdigit():
            raise _UnusualError
        if is_tombstone:
            if not frame.startswith(TOMBSTONE, at):
                raise _UnusualError
            at += len(TOMBSTONE)
        topic = self._topic or check_topic(value.decode())
        return frame[start:at], _Place(topic, check_partition(int(partition)), is_tombstone)

    def _read_stamp(self, stamp: bytes) -> int:
        """Return the timestamp that stands behind a time: 13 digits, in milliseconds."""
        time, digits = stamp[:_TIME_BYTES], stamp[-13:]
        is_time = time[0] == 0x10 and time[-1] < 128 and min(time[1:-1]) > 127
        if not is_time or not stamp.startswith(_TIMESTAMP, _TIME_BYTES) or not digits.isdigit() or digits[0] == 0x30:
            raise _UnusualError
        if len(self._stamps) >= _MOST:
            self._stamps.clear()
        timestamp = self._stamps[stamp] = int(digits)
        return timestamp

    def _read_entries(self, frame: bytes, start: int) -> tuple[Headers, bytes | None, int, int]:
        """Read metadata, a key last; return headers, key, and where the key begins and ends."""
        headers: Headers | None = None
        at, end = start, len(frame)
        while at < end and frame[at] == _METADATA:
            first, after = _content(frame, at)
            if frame.startswith(_HEADERS, first) and headers is None:
                headers = self._decode(frame[_value(frame, first + len(_HEADERS), after) : after])
            elif frame.startswith(_KEY, first):
                return headers or [], frame[_value(frame, first + _KEY_BYTES, after) : after], at, after
            elif frame.startswith(_KAFKA, first + 2) or frame[middle := first + 2 + frame[first + 1]] != 0x12:
                name, value, after = _entry(frame, at)
                if name == _KEY_BASE64:
                    return headers or [], decode_base64(fields.KEY_BASE64, value.decode()), at, after
                if _KAFKA in name and not frame.startswith(APPEND, at):
                    raise _UnusualError
            elif frame[first] != _ID:
                raise _UnusualError
            else:
                _value(frame, middle + 1, after)
            at = after
        return headers or [], None, at, at

    def _decode(self, value: bytes) -> Headers:
        headers = self._headers.get(value)
        if headers is None:
            headers = decode_headers(value)
            if len(value) <= _LARGE:
                if len(self._headers) >= _MOST:
                    self._headers.clear()
                self._headers[value] = headers
        return headers


def _content(frame: bytes, at: int) -> tuple[int, int]:
    """Return where the content of an entry begins and ends."""
    size = frame[at + 1]
    if size < 128:
        return at + 2, at + 2 + size
    size, start = _read_length(frame, at + 1)
    return start, start + size


def _value(frame: bytes, at: int, end: int) -> int:
    """Return where a value begins that goes to the end; its length stands in front of it."""
    size, start = frame[at], at + 1
    if size > 127:
        size, start = _read_length(frame, at)
    if start + size != end:
        raise _UnusualError
    return start


def _payload(frame: bytes, at: int) -> bytes:
    """Return the payload, which is the last field."""
    if frame[at : at + 1] != _PAYLOAD:
        raise _UnusualError
    size, start = _read_length(frame, at + 1)
    if start + size != len(frame):
        raise _UnusualError
    return frame[start:]


def _entry(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Return how an entry of metadata begins (its `name_field`), its value, and where it ends."""
    if data[at] != _METADATA:
        raise _UnusualError
    size, start = _read_length(data, at + 1)
    end = start + size
    middle = _after(data, start, 0x0A)
    length, value = _read_length(data, middle + 1)
    if data[middle] != 0x12 or value + length != end or end > len(data):
        raise _UnusualError
    return data[start : middle + 1], data[value:end], end


def _after(data: bytes, at: int, tag: int) -> int:
    """Return where a field of text ends, which must have this tag."""
    if data[at] != tag:
        raise _UnusualError
    size, start = _read_length(data, at + 1)
    return start + size


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    size = shift = 0
    while (byte := data[at]) > 127:
        size |= (byte & 127) << shift
        shift += 7
        at += 1
    return size | byte << shift, at + 1
