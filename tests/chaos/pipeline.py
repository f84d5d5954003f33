"""The pipeline that is put under faults; the environment says where it writes and how it buffers.

Which version of it this is stands in a file, by which it differs where it is loaded again: other code, a stage more or
less, another emitter, ports that are opened again; and how many lanes it has in another one.
"""

from __future__ import annotations

import os
from pathlib import Path

from polku import Batch, Breaker, BufferStrategy, Event, Filter, GrpcEmitter, Hub, Limits, Resilience, Retry, Transform
from tests.chaos.files import Writer

FOLDER = Path(os.environ["CHAOS_FOLDER"])
VERSION = int((FOLDER / "version").read_text())
LANES = int((FOLDER / "lanes").read_text())


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
    event.metadata["processed"] = str(VERSION)


def check(event: Event) -> bool:
    return event.metadata["processed"] != ""


def build() -> Hub:
    durable = os.environ["CHAOS_BUFFER"] == "durable"
    patient = Resilience(
        GrpcEmitter(os.environ["CHAOS_SINK"]),
        retry=Retry(limit=1.0 + VERSION // 2 % 2),
        breaker=Breaker(open_for=0.5),
        timeout=2.0,
    )
    made = (
        Hub()
        .lanes(LANES)
        .buffer_strategy(BufferStrategy.durable(FOLDER / "journal.db") if durable else BufferStrategy.ring(20_000))
        .middleware(Filter(lambda event: event.event_type == "oracle"))
        .middleware(Transform(mark))
        .limits(Limits(grpc_connections=10_000 + VERSION // 3))
        .emitter(FileEmitter())
        .emitter(patient, name="grpc")
    )
    return made.middleware(Filter(check), isolate=True) if VERSION % 3 == 1 else made


hub = build()
