"""From one JSON value to one protobuf field, with an error that names field, value and fix for each mistake."""

from __future__ import annotations

import math
import re
import reprlib
from binascii import a2b_base64
from collections.abc import Callable
from itertools import islice
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

Setter = Callable[[Any, Any], None]
"""Set a field of a message to a JSON value that is not null; raises `FieldError` about what is inside the field."""


class _Short(reprlib.Repr):
    """Show values in a few characters, also large ones: reprlib sorts all keys of an object to show four."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        first = dict(islice(x.items(), self.maxdict))
        shown = super().repr_dict(first, level)
        return shown if len(first) == len(x) or level <= 0 else f"{shown[:-1]}, ...}}"


_REPR = _Short()
_REPR.maxother = _REPR.maxstring = _REPR.maxlong = 60
_MOST_ENTRIES = 100_000  # of a map: to fill one takes a microsecond each
_REAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|NaN|-?Infinity")
_URL_SAFE = str.maketrans("-_", "+/")
_KINDS: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "an object",
}
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1, "a signed 32-bit number"),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1, "an unsigned 32-bit number"),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1, "a signed 64-bit number"),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1, "an unsigned 64-bit number"),
}


class FieldError(Exception):
    """Say which field is wrong, its value, and what to write instead."""

    def __init__(self, field: str, value: object, fix: str) -> None:
        super().__init__(field, value, fix)
        self.field = field
        self.value = value
        self.fix = fix

    def inside(self, name: str) -> FieldError:
        """Return the same error as seen from one level further out."""
        dot = "." if self.field and not self.field.startswith("[") else ""
        return FieldError(f"{shorten_name(name)}{dot}{self.field}", self.value, self.fix)

    def __str__(self) -> str:
        return f"{self.field}={_REPR.repr(self.value)}: {self.fix}"


def is_repeated(field: FieldDescriptor) -> bool:
    """Return whether a field is a list or a map (protobuf 5 has only `label`, which protobuf 7 warns of)."""
    either: Any = field
    repeated = getattr(field, "is_repeated", None)
    return bool(either.label == either.LABEL_REPEATED if repeated is None else repeated)


def scalar(field: FieldDescriptor) -> Setter:
    """Return the setter of a field that is a string, bytes, a number or an enum."""
    if field.enum_type is not None:
        return _enum(field.name, field.enum_type)
    if field.cpp_type in _RANGES:
        return _integer(field.name, *_RANGES[field.cpp_type])
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return _double(field.name)
    return _bytes(field.name) if field.type == FieldDescriptor.TYPE_BYTES else _text(field.name)


def shorten_name(name: str) -> str:
    """Cut a field's name for a message."""
    return name if len(name) <= 60 else name[:59] + "…"


def expected(value: Any, what: str, field: str = "") -> FieldError:
    """Make the error for a value of a wrong type."""
    return FieldError(field, value, f"is {_KINDS.get(type(value), 'null')}, must be {what}")


def set_timestamp(message: Message, value: Any) -> None:
    """Set a `google.protobuf.Timestamp` from RFC 3339 text."""
    if type(value) is not str:
        raise expected(value, "a string such as '2024-05-01T12:00:00Z'")
    try:
        message.FromJsonString(value)  # type: ignore[attr-defined] # a Timestamp
    except (ValueError, OverflowError):
        raise FieldError("", value, "is no time; write it as '2024-05-01T12:00:00.123Z' (RFC 3339)") from None


def set_strings(strings: Any, value: Any) -> None:
    """Extend a repeated string field."""
    if type(value) is not list:
        raise expected(value, "an array of strings")
    for position, text in enumerate(value):
        if type(text) is not str:
            raise expected(text, "a string", f"[{position}]")
    strings.extend(value)


def set_string_map(entries: Any, value: Any) -> None:
    """Fill a map of strings; entries that are null are left out."""
    if type(value) is not dict:
        raise expected(value, "an object of strings")
    if len(value) > _MOST_ENTRIES:
        raise FieldError("", value, f"has {len(value)} entries, more than any gateway takes; send fewer")
    for key, text in value.items():
        if type(text) is str:
            entries[key] = text
        elif text is not None:
            raise expected(text, "a string", f"[{_REPR.repr(key)}]")


def _text(attribute: str) -> Setter:
    def set_text(message: Any, value: Any) -> None:
        if type(value) is not str:
            raise expected(value, "a string")
        setattr(message, attribute, value)

    return set_text


def _bytes(attribute: str) -> Setter:
    def set_bytes(message: Any, value: Any) -> None:
        if type(value) is bytes:  # decoded already, since it is large
            setattr(message, attribute, value)
            return
        if type(value) is FieldError:
            raise FieldError("", value.value, value.fix)
        if type(value) is not str:
            raise expected(value, "a string of base64")
        try:
            setattr(message, attribute, _decode_base64(value))
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise FieldError("", value, f"is not base64 ({reason}); encode the bytes as base64") from None

    return set_bytes


def _decode_base64(text: str) -> bytes:
    """Decode either alphabet of RFC 4648, with or without padding."""
    if "-" in text or "_" in text:
        text = text.translate(_URL_SAFE)
    padding = -len(text) % 4
    return a2b_base64(text + "=" * padding if padding else text, strict_mode=True)


def _integer(attribute: str, low: int, high: int, what: str) -> Setter:
    def set_integer(message: Any, value: Any) -> None:
        number = _whole(value) if type(value) is not int else value
        if number is None:
            raise FieldError("", value, f"must be a whole number ({what})")
        if not low <= number <= high:
            raise FieldError("", value, f"is out of range; it must be {what}, from {low} to {high}")
        setattr(message, attribute, number)

    return set_integer


def _whole(value: Any) -> int | None:
    """Return the whole number that a string or a float stands for."""
    if type(value) is str:
        digits = value.removeprefix("-")
        return int(value) if digits.isdigit() and digits.isascii() and len(digits) <= 20 else None
    return int(value) if type(value) is float and value.is_integer() else None


def _double(attribute: str) -> Setter:
    def set_double(message: Any, value: Any) -> None:
        if type(value) not in (int, float) and not (type(value) is str and _REAL.fullmatch(value)):
            raise expected(value, "a number, or 'NaN', 'Infinity' or '-Infinity'")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number) and value not in ("Infinity", "-Infinity"):
            raise FieldError("", value, "is out of range; it must be a 64-bit floating-point number")
        setattr(message, attribute, number)

    return set_double


def _enum(attribute: str, enum: EnumDescriptor) -> Setter:
    short = {value.name.partition("_")[2].lower(): value.number for value in enum.values}
    numbers = {**{value.name.lower(): value.number for value in enum.values}, **short}
    known = ", ".join(short)

    def set_enum(message: Any, value: Any) -> None:
        number = numbers.get(value.lower()) if type(value) is str else value
        if type(number) is not int:
            raise FieldError("", value, f"is not known; choose one of {known}, or a number")
        if not -(2**31) <= number < 2**31:
            raise FieldError("", value, "is out of range; an enum is a signed 32-bit number")
        setattr(message, attribute, number)

    return set_enum
