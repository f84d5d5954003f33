"""Run by `test_versions`, in another environment: every generated module works there, and so do the cheap readings."""

from __future__ import annotations

import importlib
import sys

import google.protobuf
from google.protobuf.message import Message

from polku.batch.frames import join_frames, read_ack, read_envelope, split_frames
from polku.event.v1 import event_pb2
from polku.v1 import gateway_pb2

MODULES = ["polku.event.v1.event_pb2", "polku.v1.gateway_pb2", "polku.v1.plugin_pb2", "polku.ahti.v1.events_pb2"]


def fill(message: Message, depth: int = 0) -> None:
    """Give every field a value; of each oneof the last one stays."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if hasattr(value, "DESCRIPTOR"):
            value.SetInParent()
            if depth < 4 and value.DESCRIPTOR is not message.DESCRIPTOR:
                fill(value, depth + 1)
        elif hasattr(value, "add"):
            fill(value.add(), depth + 1)
        elif hasattr(value, "append"):
            value.append("ä")
        elif hasattr(value, "items"):
            _fill_map(value, depth)
        else:
            setattr(message, field.name, {str: "ä", bytes: b"\xff", bool: True, int: 1, float: 0.5}[type(value)])


def _fill_map(value: object, depth: int) -> None:
    if hasattr(value, "GetEntryClass") and hasattr(value, "get_or_create"):
        fill(value.get_or_create("ä"), depth + 1)
        return
    try:
        value["ä"] = "ä"  # type: ignore[index]
    except TypeError:
        value["ä"] = True  # type: ignore[index]


def check_messages() -> int:
    """Fill, write and read every message of every module; return how many there were."""
    count = 0
    for name in MODULES:
        module = importlib.import_module(name)
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            message = getattr(module, descriptor.name)()
            fill(message)
            assert type(message).FromString(message.SerializeToString()) == message, descriptor.name
            count += 1
    for name in ("polku.v1.gateway_pb2_grpc", "polku.v1.plugin_pb2_grpc", "polku.ahti.v1.events_pb2_grpc"):
        importlib.import_module(name)
    return count


def check_views() -> None:
    """Read batches and acknowledgements the cheap way."""
    events = [event_pb2.Event(id=str(number)) for number in range(3)]
    payload = gateway_pb2.EventPayload(events=events).SerializeToString()
    frames = split_frames(payload)
    assert [event_pb2.Event.FromString(frame) for frame in frames] == events
    assert join_frames(frames) == payload
    batch = gateway_pb2.IngestBatch(source="s", events=gateway_pb2.EventPayload(events=events))
    envelope = read_envelope(batch.SerializeToString())
    assert envelope == ("s", "", "events", payload)
    assert read_envelope(batch.SerializeToString() * 2) == ("s", "", "events", 2 * payload)
    ack = gateway_pb2.Ack(event_ids=["a", "b"], errors=[gateway_pb2.AckError(code="X")], buffer_size=7)
    summary = read_ack(ack.SerializeToString())
    assert (len(summary.event_ids), len(summary.errors), summary.buffer_size) == (2, 1, 7)


if __name__ == "__main__":
    check_views()
    print(f"python {sys.version_info.major}.{sys.version_info.minor}")
    print(f"protobuf {google.protobuf.__version__}")
    print(f"messages {check_messages()}")
