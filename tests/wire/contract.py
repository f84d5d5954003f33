"""Describe a .proto file as plain values, and read the same values from a text table.

A table holds `enum NAME { 0 VALUE; … }`, `message NAME { 1 field type; … }` and
`service NAME { Method(stream In) → Out; … }`. A type is `string[]` where the field repeats and `map<key,value>` where
it is a map; `@name` says which oneof the field belongs to. Types of the same package go without its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import ModuleType

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

BLOCK = re.compile(r"(enum|message|service) (\w+) \{([^}]*)\}")
METHOD = re.compile(r"(\w+)\((stream )?([\w.]+)\) → (stream )?([\w.]+)$")
PROTO_TYPE = {value: name.removeprefix("TYPE_").lower() for name, value in FieldDescriptorProto.Type.items()}


@dataclass
class Contract:
    """What a .proto file promises: names, numbers, types, labels, oneofs, methods."""

    enums: dict[str, dict[int, str]] = field(default_factory=dict)
    messages: dict[str, dict[int, tuple[str, str, str]]] = field(default_factory=dict)
    """For each message and number: the name, the type, and the oneof or nothing."""
    services: dict[str, dict[str, tuple[bool, str, bool, str]]] = field(default_factory=dict)
    """For each service and method: whether the input streams, its type, whether the output streams, its type."""


def from_table(table: str) -> Contract:
    contract = Contract()
    for kind, name, body in BLOCK.findall(table):
        entries = [entry.strip() for entry in " ".join(body.split()).split(";") if entry.strip()]
        if kind == "enum":
            contract.enums[name] = {int(number): value for number, value in (e.split() for e in entries)}
        elif kind == "message":
            contract.messages[name] = dict(_field(entry) for entry in entries)
        else:
            contract.services[name] = dict(_method(entry) for entry in entries)
    return contract


def _field(entry: str) -> tuple[int, tuple[str, str, str]]:
    number, name, type_, *oneof = entry.split()
    return int(number), (name, type_, oneof[0].removeprefix("@") if oneof else "")


def _method(entry: str) -> tuple[str, tuple[bool, str, bool, str]]:
    match = METHOD.match(entry)
    assert match, entry
    name, stream_in, input_, stream_out, output = match.groups()
    return name, (bool(stream_in), input_, bool(stream_out), output)


def from_module(module: ModuleType) -> Contract:
    """Read the descriptor that a generated module registered."""
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    assert file.syntax == "proto3"
    contract = Contract()
    for enum in file.enum_type:
        contract.enums[enum.name] = {value.number: value.name for value in enum.value}
    for message in file.message_type:
        contract.messages[message.name] = _fields(message, file.package)
    for service in file.service:
        contract.services[service.name] = {
            m.name: (m.client_streaming, _short(m.input_type, file), m.server_streaming, _short(m.output_type, file))
            for m in service.method
        }
    return contract


def _fields(message: DescriptorProto, package: str) -> dict[int, tuple[str, str, str]]:
    entries = {nested.name: nested for nested in message.nested_type}
    assert all(nested.options.map_entry for nested in entries.values()), "nothing but map entries is nested"
    assert not message.enum_type

    def type_of(f: FieldDescriptorProto) -> str:
        if not f.type_name:
            return PROTO_TYPE[f.type]
        return f.type_name.removeprefix(".").removeprefix(f"{package}.")

    def described(f: FieldDescriptorProto) -> str:
        nested = entries.get(f.type_name.rsplit(".", 1)[-1])
        if nested is not None:
            key, value = nested.field
            return f"map<{type_of(key)},{type_of(value)}>"
        return type_of(f) + ("[]" if f.label == FieldDescriptorProto.LABEL_REPEATED else "")

    oneofs = [oneof.name for oneof in message.oneof_decl]
    return {
        f.number: (f.name, described(f), oneofs[f.oneof_index] if f.HasField("oneof_index") else "")
        for f in message.field
    }


def _short(type_name: str, file: FileDescriptorProto) -> str:
    return type_name.removeprefix(".").removeprefix(f"{file.package}.")
