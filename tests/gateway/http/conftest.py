"""A pipeline with an HTTP address, which still takes events after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Event, Hub, Limits, Pipeline, RecordError
from tests.gateway.http_client import post
from tests.support.recorder import Recorder

LIMITS = Limits(message_bytes=200_000, batch_events=100, metadata_entries=8, read_seconds=1, connections=50)
NDJSON = "application/x-ndjson"
PROTOBUF = "application/x-protobuf"


def parse_lines(data: bytes) -> Iterator[Event | RecordError]:
    for number, line in enumerate(data.splitlines(), 1):
        yield Event(event_type="line", payload=line) if line != b"bad" else RecordError("cannot be read", line=number)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").limits(LIMITS).ingestor(parse_lines, source="lines").emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        yield pipeline


@pytest.fixture
def address(pipeline: Pipeline) -> Iterator[str]:
    address = str(pipeline.http_address)
    yield address
    assert post(address, b'{"id": "afterwards", "event_type": "t"}').ids == ["afterwards"]  # everything else goes on
