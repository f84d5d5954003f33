"""Cut large JSON apart without building it: members of an object, and elements of an array, a few at a time.

To decode 4 MB of small values takes 50 ms and more, in one call that nobody can interrupt; to find the end of a value
takes 1 to 10 ms, whatever is in it. So large JSON is cut level by level, and only its parts are decoded. What yields
None leaves others a turn there.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from itertools import count, islice
from typing import Any

import msgspec

LARGE = 64 * 1024
"""Bytes: what is no larger is decoded within a few milliseconds, whatever it is."""

_RAW = msgspec.json.Decoder(msgspec.Raw).decode
_TEXT = msgspec.json.Decoder(str).decode
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw]).decode
_SPACE = rb"[ \t\r\n]*+"
_GAP = re.compile(_SPACE)
_NAME = re.compile(_SPACE + rb'("(?:[^"\\]++|\\.)*+")' + _SPACE + b":", re.DOTALL)
_NEXT = re.compile(_SPACE + rb"([,\]}])")
_BETWEEN = re.compile(rb"\}\s*(,)\s*(?=\{)|(,)")
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_TURN = 200  # members, or elements, that are cut one by one
_TRIES = 4  # ends of a window that are tried


def value_end(data: bytes, at: int) -> int:
    """Return where what comes after the value begins that begins at `at`; raises `msgspec.DecodeError`."""
    try:
        _RAW(memoryview(data)[at:])
    except msgspec.DecodeError as error:
        found = _TRAILING.search(str(error))
        if found is None:
            raise
        return at + int(found[1]) - 1  # it names the byte after the first one that does not belong to the value
    return len(data)


def members(data: bytes) -> Iterator[tuple[str, bytes] | None]:
    """Yield the members of an object, in order; raises `msgspec.MsgspecError` where it is not JSON."""
    at = _opening(data, b"{")
    if data[at : at + 1] == b"}":
        _check_end(data, at + 1)
        return
    for number in count(1):
        name = _NAME.match(data, at)
        if name is None:
            raise msgspec.DecodeError(f"JSON is malformed: expected a name (byte {at})")
        end = value_end(data, name.end())
        if end - at > LARGE or not number % _TURN:
            yield None
        yield _TEXT(name[1]), data[name.end() : end].strip()
        at, is_last = _behind(data, end, b"}")
        if is_last:
            return


def elements(data: bytes) -> Iterator[list[bytes] | None]:
    """Yield the elements of an array, some at a time; raises `msgspec.MsgspecError` where it is not JSON."""
    at = _opening(data, b"[")
    if data[at : at + 1] == b"]":
        _check_end(data, at + 1)
        return
    while True:
        window = yield from _window(data, at)
        if window is None:
            return
        at, is_last = window
        if is_last:
            return


def _window(data: bytes, at: int) -> Generator[list[bytes] | None, None, tuple[int, bool] | None]:
    """Yield what stands in about `LARGE` bytes; return where the next begins, and whether there is none."""
    if len(data) - at <= LARGE:
        yield _pieces(b"[" + data[at:])
        return None
    for match in islice(_BETWEEN.finditer(data, at + LARGE // 2, at + LARGE), _TRIES):
        comma = match.start(match.lastindex or 0)
        try:
            pieces = _pieces(b"[" + data[at:comma] + b"]")
        except msgspec.DecodeError:
            continue  # it is a comma further in
        yield pieces
        yield None
        return comma + 1, False
    until, number = at + LARGE, 0
    while at < until:
        end = value_end(data, at)
        number += 1
        if end - at > LARGE or not number % _TURN:
            yield None
        yield [data[at:end].strip()]
        at, is_last = _behind(data, end, b"]")
        if is_last:
            return at, True
    return at, False


def _pieces(array: bytes) -> list[bytes]:
    return list(map(bytes, _ARRAY(array)))


def _opening(data: bytes, bracket: bytes) -> int:
    at = _gap(data, 0)
    if data[at : at + 1] != bracket:
        raise msgspec.DecodeError(f"JSON is malformed: expected {bracket.decode()!r} (byte {at})")
    return _gap(data, at + 1)


def _behind(data: bytes, end: int, closing: bytes) -> tuple[int, bool]:
    """Return where the next value begins, behind a comma, or that there is none."""
    found = _NEXT.match(data, end)
    if found is None or found[1] not in (b",", closing):
        raise msgspec.DecodeError(f"JSON is malformed: expected ',' or {closing.decode()!r} (byte {end})")
    if found[1] == b",":
        return found.end(), False
    _check_end(data, found.end())
    return found.end(), True


def _check_end(data: bytes, at: int) -> None:
    if _gap(data, at) != len(data):
        raise msgspec.DecodeError(f"JSON is malformed: trailing characters (byte {at})")


def _gap(data: bytes, at: int) -> int:
    gap: Any = _GAP.match(data, at)
    end: int = gap.end()
    return end
