"""Read a `google.rpc.Status`: what a server says of a fault, and in its `RetryInfo` when to call again."""

from __future__ import annotations

import base64
from typing import Any, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "polku.rpc.details"
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def _build() -> dict[str, Any]:
    """Return the messages under names of our own: the generated ones need a package that is not there for certain."""
    file = descriptor_pb2.FileDescriptorProto(name="polku/rpc_details.proto", package=_PACKAGE, syntax="proto3")
    message, string, raw = _FIELD.TYPE_MESSAGE, _FIELD.TYPE_STRING, _FIELD.TYPE_BYTES
    shapes: dict[str, list[tuple[int, str, Any, str]]] = {
        "Status": [(2, "message", string, ""), (3, "details", message, "Any")],
        "Any": [(1, "type_url", string, ""), (2, "value", raw, "")],
        "RetryInfo": [(1, "delay", message, "Duration")],
        "Duration": [(1, "seconds", _FIELD.TYPE_INT64, ""), (2, "nanos", _FIELD.TYPE_INT32, "")],
    }
    for name, fields in shapes.items():
        own = file.message_type.add(name=name)
        for number, field_name, kind, other in fields:
            field = own.field.add(name=field_name, number=number, type=kind)
            field.label = _FIELD.LABEL_REPEATED if field_name == "details" else _FIELD.LABEL_OPTIONAL
            if other:
                field.type_name = f".{_PACKAGE}.{other}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{n}")) for n in shapes}


_CLASSES = _build()


def status_message(content: bytes) -> str:
    """Return the message of a serialised `google.rpc.Status`; empty where it is none."""
    try:
        return cast("str", _CLASSES["Status"].FromString(content).message)
    except DecodeError:
        return ""


def retry_seconds(value: bytes) -> float | None:
    """Return the pause of a `RetryInfo` in a value of `grpc-status-details-bin`; None where there is none."""
    try:
        content = base64.b64decode(value + b"=" * (-len(value) % 4))
        for detail in _CLASSES["Status"].FromString(content).details:
            if detail.type_url == _RETRY_INFO:
                delay = _CLASSES["RetryInfo"].FromString(detail.value).delay
                return max(0.0, cast("float", delay.seconds + delay.nanos / 1e9))
    except (ValueError, DecodeError):  # nobody can read it
        pass
    return None
