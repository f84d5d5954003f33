"""The pipeline that is put under faults; the environment says where it writes and how it buffers."""

from __future__ import annotations

import os
from pathlib import Path

from polku import Batch, Breaker, BufferStrategy, Event, Filter, GrpcEmitter, Hub, Resilience, Retry, Transform
from tests.chaos.files import Writer

FOLDER = Path(os.environ["CHAOS_FOLDER"])


class FileEmitter:
    """Write batches to a file of this life."""

    name = "file"

    def __init__(self) -> None:
        self._writer: Writer | None = None

    def start(self) -> None:
        self._writer = Writer(FOLDER, "file")

    def emit(self, batch: Batch) -> None:
        assert self._writer is not None
        self._writer.write(batch.payload)


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


def build() -> Hub:
    durable = os.environ["CHAOS_BUFFER"] == "durable"
    patient = Resilience(
        GrpcEmitter(os.environ["CHAOS_SINK"]), retry=Retry(limit=1.0), breaker=Breaker(open_for=0.5), timeout=2.0
    )
    return (
        Hub()
        .buffer_strategy(BufferStrategy.durable(FOLDER / "journal.db") if durable else BufferStrategy.ring(20_000))
        .middleware(Filter(lambda event: event.event_type == "oracle"))
        .middleware(Transform(mark))
        .emitter(FileEmitter())
        .emitter(patient, name="grpc")
    )


hub = build()
