"""A pipeline with a gRPC address, on the native server; the client is that of grpcio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import Event, Hub, Pipeline
from polku.v1.gateway_pb2 import EventPayload, IngestBatch
from tests.support.recorder import Recorder

SEND, STREAM = "/polku.v1.Gateway/SendEvent", "/polku.v1.Gateway/StreamEvents"


@pytest.fixture(autouse=True)
def door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", "native")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    with Hub(runtime="inline").emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


@pytest.fixture
def channel(pipeline: Pipeline) -> Iterator[Any]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(str(pipeline.address), options) as channel:
        yield channel


def large(size: int, count: int = 1) -> IngestBatch:
    events = [Event(id=f"{number}", event_type="large", payload=b"x" * size) for number in range(count)]
    return IngestBatch(source="s", events=EventPayload(events=events))
