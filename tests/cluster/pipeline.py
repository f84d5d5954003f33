"""The pipeline on several hosts: a file on each, in order, and a gRPC destination on another host."""

from __future__ import annotations

import os
from pathlib import Path

from polku import Batch, Breaker, BufferStrategy, Deduplicator, Event, GrpcEmitter, Hub, Resilience
from tests.chaos.files import Writer

DISK = Path("/mnt/data")


class FileEmitter:
    """Write batches to a file of this life, on the disk of the host."""

    name = "file"

    def __init__(self) -> None:
        self._writer: Writer | None = None

    def start(self) -> None:
        self._writer = Writer(DISK, "file")

    def emit(self, batch: Batch) -> None:
        assert self._writer is not None
        self._writer.write(batch.payload)


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


def build() -> Hub:
    durable = os.environ["CLUSTER_BUFFER"] == "durable"
    patient = Resilience(GrpcEmitter(os.environ["CLUSTER_SINK"]), breaker=Breaker(open_for=0.5), timeout=2.0)
    made = (
        Hub()
        .buffer_strategy(BufferStrategy.durable(DISK / "journal.db") if durable else BufferStrategy.ring(50_000))
        .middleware(mark)
        .emitter(FileEmitter())
        .emitter(patient, name="sink")
    )
    shape = os.environ["CLUSTER_SHAPE"]
    return made.middleware(Deduplicator()) if shape == "shared" else made.chain()


hub = build()
