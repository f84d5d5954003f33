"""OTLP's own JSON, which is nearly that of protobuf: ids are hexadecimal, enums are numbers, and names in camelCase.

It is read straight into messages, since protobuf's own reader takes ten times as long, and in turns: a message as JSON
is much more work than the same as protobuf.
"""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cache
from typing import Any, cast

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from polku.checks import shorten
from polku.codes import Code
from polku.errors import InputError
from polku.ingest.base64_slices import bytes_of_text
from polku.ingest.json_cut import LARGE, elements, members
from polku.otlp.signals import Signal

_IDS = frozenset(("trace_id", "span_id", "parent_span_id"))
_OBJECTS = 200_000  # of a request: each takes 3 µs, and 100 bytes and more
_TURN = 200  # records or so
_DEPTH = 100  # as protobuf has it
_WHOLE = 16 * 1024  # bytes of JSON that are decoded in one go
_NAMES = 5_000  # of one object: 40 ms to be cut apart
_SCALARS = 1_000  # of an array, until others have their turn
_DECODE = msgspec.json.Decoder().decode
_RAW = msgspec.json.Decoder(msgspec.Raw).decode
_OPENING = (b"{", b"[")
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64),
}
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Convert = Callable[[Any, str], Any]


class _Large(bytes):
    """An object or an array that is not decoded yet: it is cut first."""


class _FieldError(Exception):
    """Say which field is wrong, and why."""


def read_json(signal: Signal, body: bytes) -> Generator[None, None, bytes]:
    """Read a request as JSON and return it as protobuf; yields while it works, for others to have a turn.

    Fields of unknown names are ignored, as the specification demands. Raises `InputError`.
    """
    if body.count(b"{") + body.count(b"[") > _OBJECTS:
        reason = f"request: more than {_OBJECTS} objects and arrays; send fewer records at once, or protobuf"
        raise InputError(Code.TOO_LARGE, reason)
    try:
        _RAW(body)
        yield
        content = _decoded(body.strip())
        request = signal.calls.DESCRIPTOR.message_types_by_name[f"Export{_kind(signal)}ServiceRequest"]
        message = getattr(signal.calls, request.name)()
        for work, pauses in enumerate(_fill(message, content, "request", 0)):
            if pauses or not work % _TURN:
                yield
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(Code.MALFORMED, f"request: not valid JSON ({error}); send it again whole") from None
    except _FieldError as error:
        raise InputError(Code.MALFORMED, str(error)) from None
    yield
    serialised = cast("bytes", message.SerializeToString())
    yield
    return serialised


def _kind(signal: Signal) -> str:
    return {"logs": "Logs", "traces": "Trace", "metrics": "Metrics"}[signal.name]


def _decoded(data: bytes) -> Any:
    return _Large(data) if len(data) > _WHOLE and data[:1] in _OPENING else _DECODE(data)


def _members(content: Any, path: str) -> Iterator[tuple[str, Any] | None]:
    """Yield the members of an object, and None where others may have their turn."""
    if isinstance(content, Mapping):
        yield from content.items()
    elif isinstance(content, _Large) and content[:1] == b"{":
        for number, pair in enumerate(members(content)):
            if number > _NAMES:
                reason = f"{path}: more than {_NAMES} names in one object; what is repeated stands in arrays"
                raise InputError(Code.TOO_LARGE, reason)
            yield None if pair is None else (pair[0], _decoded(pair[1]))
    else:
        raise _FieldError(f"{path}={shorten(content)}: must be an object")


def _elements(content: Any, path: str) -> Iterator[list[Any] | None]:
    """Yield the elements of an array, some at a time, and None where others may have their turn."""
    if isinstance(content, list):
        yield content
    elif isinstance(content, _Large) and content[:1] == b"[":
        for pieces in elements(content):
            if pieces is None:
                yield None
                continue
            for start in range(0, len(pieces), _SCALARS):
                yield list(map(_decoded, pieces[start : start + _SCALARS]))
                yield None
    else:
        raise _FieldError(f"{path}={shorten(content)}: must be an array")


def _fill(message: Message, content: Any, path: str, depth: int) -> Generator[bool, None, None]:
    """Set the fields of a message; yields False for each message in it, and True where others may have their turn."""
    yield False
    if depth > _DEPTH:
        raise _FieldError(f"{path[:100]}…: more than {_DEPTH} levels; send fewer")
    fields = _fields(message.DESCRIPTOR)
    for pair in _members(content, path):
        if pair is None:
            yield True
            continue
        name, value = pair
        field = fields.get(name)
        if field is None or value is None:
            continue
        own, is_repeated, convert = field
        place = f"{path}.{name}"
        if is_repeated:
            yield from _extend(getattr(message, own), value, convert, place, depth)
        elif convert is _octets and isinstance(value, str) and len(value) > LARGE:
            setattr(message, own, (yield from _large_octets(value, place)))
        elif convert is not None:
            setattr(message, own, convert(value, place))
        else:
            inner = getattr(message, own)
            inner.SetInParent()
            yield from _fill(inner, value, place, depth + 1)


def _extend(target: Any, value: Any, convert: Convert | None, place: str, depth: int) -> Generator[bool, None, None]:
    """Append the elements of an array to a repeated field."""
    number = 0
    for some in _elements(value, place):
        if some is None:
            yield True
        elif convert is not None:
            target.extend([convert(one, place) for one in some])
        else:
            for one in some:
                yield from _fill(target.add(), one, f"{place}[{number}]", depth + 1)
                number += 1


@cache
def _fields(kind: Descriptor) -> dict[str, tuple[str, bool, Convert | None]]:
    """Return each field by its name in JSON: its own name, whether it is repeated, and what converts a value."""
    return {one.json_name: (one.name, _is_repeated(one), _converter(one)) for one in kind.fields}


def _is_repeated(field: Any) -> bool:
    known = getattr(field, "is_repeated", None)  # younger than protobuf 5
    return known if isinstance(known, bool) else field.label == FieldDescriptor.LABEL_REPEATED


def _converter(field: FieldDescriptor) -> Convert | None:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return None
    if kind in _INTEGERS:
        return _integer(*_INTEGERS[kind])
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return _enum({value.name: value.number for value in field.enum_type.values})
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _boolean
    if kind == FieldDescriptor.CPPTYPE_STRING:
        is_text = field.type == FieldDescriptor.TYPE_STRING
        return _text if is_text else _hexadecimal if field.name in _IDS else _octets
    return _number


def _integer(least: int, end: int) -> Convert:
    def convert(value: Any, place: str) -> int:
        number = value
        if isinstance(value, str):
            try:
                number = int(value) if len(value) <= 20 else None
            except ValueError:
                number = None
        elif isinstance(value, float) and value.is_integer():
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number < end:
            raise _FieldError(f"{place}={shorten(value)}: must be a whole number from {least} to {end - 1}")
        return number

    return convert


def _enum(names: Mapping[str, int]) -> Convert:
    whole = _integer(-(2**31), 2**31)

    def convert(value: Any, place: str) -> int:
        return names[value] if isinstance(value, str) and value in names else cast("int", whole(value, place))

    return convert


def _boolean(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise _FieldError(f"{place}={shorten(value)}: must be true or false")
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _FieldError(f"{place}={shorten(value)}: must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _FieldError(f"{place}={shorten(value)}: has half of a surrogate pair; send UTF-8") from None
    return value


def _hexadecimal(value: Any, place: str) -> bytes:
    try:
        return bytes.fromhex(_text(value, place))
    except ValueError:
        raise _FieldError(f"{place}={shorten(value)}: must be hexadecimal, not base64") from None


def _octets(value: Any, place: str) -> bytes:
    try:
        return base64.b64decode(_text(value, place), validate=True)
    except ValueError:
        raise _FieldError(f"{place}={shorten(value)}: must be base64") from None


def _large_octets(value: str, place: str) -> Generator[bool, None, bytes]:
    text = _text(value, place).encode()
    yield True
    decoding = bytes_of_text(text)
    try:
        while True:
            next(decoding)
            yield True
    except StopIteration as end:
        return cast("bytes", end.value)
    except ValueError:
        raise _FieldError(f"{place}={shorten(value)}: must be base64") from None


def _number(value: Any, place: str) -> float:
    if isinstance(value, str):
        if value in _NUMBERS:
            return _NUMBERS[value]
        with contextlib.suppress(ValueError):
            value = float(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _FieldError(f"{place}={shorten(value)}: must be a number")
    try:
        return float(value)
    except OverflowError:
        raise _FieldError(f"{place}={shorten(value)}: is too large") from None
