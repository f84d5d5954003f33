"""A pipeline with a gRPC address, on each of the two servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import BufferStrategy, Event, Filter, Hub, Limits, Pipeline
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload
from tests.support.recorder import Recorder

LIMITS = Limits(message_bytes=200_000, batch_events=100, metadata_entries=8, metadata_key_bytes=32)


@pytest.fixture(params=["grpcio", "native"], autouse=True)
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every behaviour, with each of the doors."""
    monkeypatch.setenv("POLKU_DOOR", request.param)
    return str(request.param)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def pipeline(door: str, recorder: Recorder) -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").limits(LIMITS).buffer_strategy(BufferStrategy.ring(5_000))
    hub.middleware(Filter(lambda event: event.event_type != "noise")).emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


@pytest.fixture
def channel(pipeline: Pipeline) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> gateway_pb2_grpc.GatewayStub:
    return gateway_pb2_grpc.GatewayStub(channel)


def events(*ids: str, **fields: Any) -> EventPayload:
    return EventPayload(events=[Event(id=event_id, event_type="test", **fields) for event_id in ids])
