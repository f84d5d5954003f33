"""Find the records in bytes of JSON: an object, an array of objects, or one object a line.

The records come one by one, and what is not asked for is not read: neither memory nor time grows with records that
nobody takes, as in an array of two million numbers of which the thousandth is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice

import msgspec
from msgspec import Struct

from polku.event.v1.event_pb2 import Event
from polku.ingest.json_cut import LARGE, value_end
from polku.ingest.json_fields import FieldError
from polku.ingest.json_record import NotJsonError, decode

_BOM = b"\xef\xbb\xbf"
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw).decode
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_TOKEN = re.compile(_STRING + rb'|["\[\]{},]', re.DOTALL)
_INNER = re.compile(rb"(?:" + _STRING + rb'|[^"\[\]{}]++)*+(.)', re.DOTALL)  # a bracket, or a string without an end
_BETWEEN_OBJECTS = re.compile(rb"\}\s*(,)\s*(?=\{)")
_PROBED_LINES = 100
_WINDOW = 64 * 1024  # bytes that are looked at together
_DEPTH = 1_000  # of brackets: the decoder does not go deeper


class Record(Struct, frozen=True):
    """Where one record lies in the data, and how it is named: its `line`, its `place` in an array, or neither."""

    data: bytes
    offset: int
    line: int | None = None
    place: int | None = None


class Readers(Struct, frozen=True):
    """How many plain records are read at once: those of an array, or of lines. None says that they are to be split."""

    array: Callable[[bytes], list[Event] | None]
    lines: Callable[[bytes], list[Event] | None]


_NONE = Readers(lambda data: None, lambda data: None)


def split_records(data: bytes, plain: Readers = _NONE) -> Iterator[Record | Event | None]:
    """Find the records of data of which it is not said that each line is one; those that are `plain` are read.

    None stands where others may have their turn.
    """
    start = _start(data)
    body = data[start:] if start else data
    if body.lstrip()[:1] == b"[":
        yield from _array(body, start, plain)
    elif b"\n" in body.strip() and (yield from _is_lines(body)):
        yield from _lines(data, start, plain)
    else:
        yield Record(body, start)


def split_lines(data: bytes, plain: Readers = _NONE) -> Iterator[Record | Event | None]:
    """Find the lines that are not blank; those that are `plain` are read, and None is as in `split_records`."""
    return _lines(data, _start(data), plain)


def _start(data: bytes) -> int:
    return len(_BOM) if data.startswith(_BOM) else 0


def _is_lines(body: bytes) -> Generator[None, None, bool]:
    """Return whether data is one object a line: it is no single value, and one of its first lines is an object."""
    if _is_json(body):
        return False
    lines = (line for line in body.split(b"\n", _PROBED_LINES) if line.lstrip().startswith(b"{"))
    seen = len(body)
    for line in islice(lines, _PROBED_LINES):
        if seen > LARGE:
            seen = 0
            yield
        seen += len(line)
        if _is_json(line):
            return True
    return False


def _is_json(data: bytes) -> bool:
    try:
        if len(data) > LARGE:
            _RAW(data)
        else:
            decode(data)
    except (NotJsonError, msgspec.MsgspecError, ValueError, RecursionError):
        return False
    except FieldError:
        pass
    return True


def _lines(data: bytes, at: int, plain: Readers) -> Iterator[Record | Event | None]:
    number = 1
    while at < len(data):
        end = data.find(b"\n", min(at + _WINDOW, len(data))) + 1 or len(data)
        window = data[at:end]
        if (events := plain.lines(window)) is not None:
            yield from events
            number += len(events)
            at = end
            continue
        if window.isspace():
            number += window.count(b"\n")
            at = end
            continue
        for line in window.removesuffix(b"\n").split(b"\n"):
            if line and not line.isspace():
                yield Record(line, at, line=number)
            at += len(line) + 1
            number += 1


def _array(body: bytes, start: int, plain: Readers) -> Iterator[Record | Event | None]:
    """Decode an array by windows that end between two objects; what is not JSON is cut at its commas."""
    at, place = body.index(b"[") + 1, 0
    while True:
        end, pieces = _window(body, at, plain)
        if pieces is None:
            cut = yield from _one_by_one(body, at, start, place)
            if cut is None:
                return
            at, place = cut
            continue
        begin = at
        for piece in pieces:
            if isinstance(piece, bytes):
                begin = body.find(piece, begin)  # between two pieces stand only spaces and a comma
                yield Record(piece, start + begin, place=place)
                begin += len(piece)
            else:
                yield piece
            place += 1
        if end == len(body):
            return
        at = end


def _window(body: bytes, at: int, plain: Readers) -> tuple[int, Sequence[bytes | Event] | None]:
    """Decode the records from `at` to the end of an object; return where to go on, and None where it is not JSON.

    What begins and ends an array by brackets of ours, and is JSON, ends at a comma of that array and at no other one.
    None, too, where what looks like the end of an object is in a string, or further in.
    """
    match = _BETWEEN_OBJECTS.search(body, at + _WINDOW, at + 2 * _WINDOW)
    if match is not None:
        return match.end(1), _decode(b"[" + body[at : match.start(1)] + b"]", plain)
    if len(body) - at > 2 * _WINDOW:
        return at, None
    return len(body), _decode(b"[" + body[at:], plain)


def _one_by_one(body: bytes, at: int, start: int, place: int) -> Generator[Record | None, None, tuple[int, int] | None]:
    """Cut records off about `_WINDOW` bytes; return where the next begins, and its number, if there is one."""
    until = at + _WINDOW
    while at < until:
        try:
            end = value_end(body, at)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            end = at
        if body[end : end + 1] not in (b",", b"]") or end == at:
            yield from _pieces(body, at, start, place)
            return None
        if end - at > _WINDOW:
            yield None
        record = body[at:end]
        yield Record(record.strip(), start + end - len(record.lstrip()), place=place)
        place += 1
        at = end + 1
        if body[end : end + 1] == b"]":
            if not body[at:].isspace() and at < len(body):
                yield Record(body[at:], start + at, place=place)
            return None
    return at, place


def _decode(array: bytes, plain: Readers) -> Sequence[bytes | Event] | None:
    if (events := plain.array(array)) is not None:
        return events
    try:
        return list(map(bytes, _ARRAY.decode(array)))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _pieces(body: bytes, begin: int, start: int, place: int) -> Iterator[Record]:
    """Cut the rest of an array at its commas, so that what is wrong in one record costs only that one."""
    depth, at = 1, begin
    while (token := (_TOKEN.search if depth == 1 else _INNER.match)(body, at)) is not None:
        at = token.end()
        kind = body[at - 1 : at]
        if kind == b'"' and (depth > 1 or len(token[0]) == 1):
            break  # a string without an end: where the next record begins cannot be known
        if kind in b"[{":
            depth += 1
        elif kind in b"]}":
            depth -= 1
        if depth == 0 or (depth == 1 and kind == b","):
            yield Record(body[begin : at - 1], start + begin, place=place)
            begin, place = at, place + 1
        if depth in (0, _DEPTH):
            break
    rest = body[begin:]
    if rest.strip():
        yield Record(rest, start + begin, place=place)
