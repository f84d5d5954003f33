"""OTLP's own JSON, which is nearly that of protobuf: ids are hexadecimal, enums are numbers, and names in camelCase.

It is read straight into messages, since protobuf's own reader takes ten times as long, and in turns: a message as JSON
is much more work than the same as protobuf.
"""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Callable, Generator, Mapping
from functools import cache
from typing import Any, cast

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from polku.checks import shorten
from polku.codes import Code
from polku.errors import InputError
from polku.otlp.signals import Signal

_IDS = frozenset(("trace_id", "span_id", "parent_span_id"))
_OBJECTS = 200_000  # of a request: each takes 3 µs, and 100 bytes and more
_TURN = 200  # records or so
_DEPTH = 100  # as protobuf has it
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64),
}
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Convert = Callable[[Any, str], Any]


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
        content = msgspec.json.decode(body)
        request = signal.calls.DESCRIPTOR.message_types_by_name[f"Export{_kind(signal)}ServiceRequest"]
        message = getattr(signal.calls, request.name)()
        for work, _ in enumerate(_fill(message, content, "request", 0)):
            if not work % _TURN:
                yield
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(Code.MALFORMED, f"request: not valid JSON ({error}); send it again whole") from None
    except _FieldError as error:
        raise InputError(Code.MALFORMED, str(error)) from None
    return cast("bytes", message.SerializeToString())


def _kind(signal: Signal) -> str:
    return {"logs": "Logs", "traces": "Trace", "metrics": "Metrics"}[signal.name]


def _fill(message: Message, content: Any, path: str, depth: int) -> Generator[None, None, None]:
    """Set the fields of a message; yields once for each message in it."""
    yield
    if depth > _DEPTH:
        raise _FieldError(f"{path[:100]}…: more than {_DEPTH} levels; send fewer")
    if not isinstance(content, Mapping):
        raise _FieldError(f"{path}={shorten(content)}: must be an object")
    fields = _fields(message.DESCRIPTOR)
    for name, value in content.items():
        field = fields.get(name)
        if field is None or value is None:
            continue
        own, is_repeated, convert = field
        place = f"{path}.{name}"
        if is_repeated:
            if not isinstance(value, list):
                raise _FieldError(f"{place}={shorten(value)}: must be an array")
            target = getattr(message, own)
            if convert is not None:
                target.extend([convert(one, place) for one in value])
            else:
                for number, one in enumerate(value):
                    yield from _fill(target.add(), one, f"{place}[{number}]", depth + 1)
        elif convert is not None:
            setattr(message, own, convert(value, place))
        else:
            inner = getattr(message, own)
            inner.SetInParent()
            yield from _fill(inner, value, place, depth + 1)


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
