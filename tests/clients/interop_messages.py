"""The messages of `grpc.testing.TestService` (grpc/testing/messages.proto of gRPC), as far as its cases use them."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "grpc.testing"
_FIELD = descriptor_pb2.FieldDescriptorProto
# By message: the name, the type and the number of each field; `*` marks one that is repeated.
_MESSAGES = {
    "Empty": "",
    "Payload": "type:int32:1 body:bytes:2",
    "EchoStatus": "code:int32:1 message:string:2",
    "SimpleRequest": "response_type:int32:1 response_size:int32:2 payload:Payload:3 response_status:EchoStatus:7",
    "SimpleResponse": "payload:Payload:1 server_id:string:4",
    "StreamingInputCallRequest": "payload:Payload:1",
    "StreamingInputCallResponse": "aggregated_payload_size:int32:1",
    "ResponseParameters": "size:int32:1 interval_us:int32:2",
    "StreamingOutputCallRequest": "response_parameters:ResponseParameters*:2 payload:Payload:3 "
    "response_status:EchoStatus:7",
    "StreamingOutputCallResponse": "payload:Payload:1",
}
_SCALARS = {"int32": _FIELD.TYPE_INT32, "bytes": _FIELD.TYPE_BYTES, "string": _FIELD.TYPE_STRING}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="grpc/testing/part.proto", package=_PACKAGE, syntax="proto3")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for field in fields.split():
            name, kind, number = field.split(":")
            label = _FIELD.LABEL_REPEATED if kind.endswith("*") else _FIELD.LABEL_OPTIONAL
            added = described.field.add(name=name, number=int(number), label=label)
            added.type = _SCALARS.get(kind, _FIELD.TYPE_MESSAGE)
            if kind not in _SCALARS:
                added.type_name = f".{_PACKAGE}.{kind.rstrip('*')}"
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def message(name: str) -> Any:
    """Return the class of a message."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
