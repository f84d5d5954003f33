"""Descriptors that are written by hand are those that protobuf's own classes write."""

from __future__ import annotations

from google.protobuf import descriptor_pb2

from polku.batch.message_classes import BYTES, INT64, MESSAGE, STRING, Field, file_descriptor, message_classes

_FIELD = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
    "Inner": [Field(1, "name", STRING), Field(300, "n" * 200, INT64, repeated=True)],
    "Outer": [
        Field(2, "one", MESSAGE, message="Inner"),
        Field(3, "raw", BYTES, in_oneof=True),
        Field(4, "text", STRING, in_oneof=True),
    ],
}


def test_a_descriptor_is_that_of_protobuf() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="polku/a/b.proto", package="polku.a.b", syntax="proto3")
    inner, outer = (file.message_type.add(name=name) for name in ("Inner", "Outer"))
    outer.oneof_decl.add(name="payload")
    repeated, optional = _FIELD.LABEL_REPEATED, _FIELD.LABEL_OPTIONAL
    inner.field.add(name="name", number=1, type=_FIELD.TYPE_STRING, label=optional)
    inner.field.add(name="n" * 200, number=300, type=_FIELD.TYPE_INT64, label=repeated)
    outer.field.add(name="one", number=2, type=_FIELD.TYPE_MESSAGE, label=optional, type_name=".polku.a.b.Inner")
    outer.field.add(name="raw", number=3, type=_FIELD.TYPE_BYTES, label=optional, oneof_index=0)
    outer.field.add(name="text", number=4, type=_FIELD.TYPE_STRING, label=optional, oneof_index=0)
    assert file_descriptor("polku.a.b", _MESSAGES) == file.SerializeToString(deterministic=True)


def test_the_classes_read_and_write_messages() -> None:
    classes = message_classes("polku.a.b", _MESSAGES)
    message = classes["Outer"](one=classes["Inner"](name="x"), text="t")
    again = classes["Outer"].FromString(message.SerializeToString())
    assert (again.one.name, again.WhichOneof("payload")) == ("x", "text")
