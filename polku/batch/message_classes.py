"""Make classes of small protobuf messages that no `.proto` file has, such as views that leave a field's bytes alone.

Their descriptor is written as `descriptor.proto` encodes it. protobuf's own classes for descriptors (`descriptor_pb2`)
are 300 kB of code, the largest module of a start, and nothing else there needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from msgspec import Struct

from polku.batch.varint import varint

# The numbers of `FieldDescriptorProto.Type`.
INT64, INT32, STRING, MESSAGE, BYTES = 3, 5, 9, 11, 12
_OPTIONAL, _REPEATED = 1, 3  # of `FieldDescriptorProto.Label`


class Field(Struct, frozen=True):
    """A field: one whose type is MESSAGE says of which message of the package it is."""

    number: int
    name: str
    type: int
    message: str = ""
    repeated: bool = False
    in_oneof: bool = False
    """Whether it belongs to the one `oneof` of its message, `payload`."""


def message_classes(package: str, messages: Mapping[str, Sequence[Field]]) -> dict[str, Any]:
    """Return the class of each message by its name, from a pool of their own."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_descriptor(package, messages))
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{n}")) for n in messages}


def file_descriptor(package: str, messages: Mapping[str, Sequence[Field]]) -> bytes:
    """Return the serialised `FileDescriptorProto` of messages in the syntax proto3."""
    written = b"".join(_bytes(4, _message(package, name, fields)) for name, fields in messages.items())
    file = f"{package.replace('.', '/')}.proto"
    return _text(1, file) + _text(2, package) + written + _text(12, "proto3")


def _message(package: str, name: str, fields: Sequence[Field]) -> bytes:
    written = b"".join(_bytes(2, _field(package, field)) for field in fields)
    has_oneof = any(field.in_oneof for field in fields)
    return _text(1, name) + written + (_bytes(8, _text(1, "payload")) if has_oneof else b"")


def _field(package: str, field: Field) -> bytes:
    label = _REPEATED if field.repeated else _OPTIONAL
    written = _text(1, field.name) + _number(3, field.number) + _number(4, label) + _number(5, field.type)
    if field.message:
        written += _text(6, f".{package}.{field.message}")
    return written + _number(9, 0) if field.in_oneof else written


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())


def _bytes(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return bytes([number << 3]) + varint(value)
