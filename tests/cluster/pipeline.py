"""The pipeline on several hosts: a file on each, in order, and a gRPC destination on another host.

What a test may change while it runs is in a file on the disk of the head: `{"step": "throttle", "partitions": 4}`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from polku import (
    Batch,
    Breaker,
    BufferStrategy,
    Deduplicator,
    Event,
    GrpcEmitter,
    Hub,
    Limits,
    Resilience,
    Scaling,
    Throttle,
)
from tests.chaos.files import Writer

DISK = Path("/mnt/data")
QUICK = Scaling(oldest_seconds=2.0, busy=0.7, idle=0.45, up_seconds=1.0, down_seconds=4.0, pause_seconds=3.0)


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


def model(event: Event) -> None:
    time.sleep(0.01)


def grind(event: Event) -> None:
    sum(range(60_000))


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
    match os.environ["CLUSTER_SHAPE"]:
        case "shared":
            return made.middleware(Deduplicator())
        case "divided":
            return _divided(made, json.loads((DISK / "changes.json").read_text()))
        case "replicas":
            return made.middleware(model, replicas=(1, 4), num_cpus=0.4).scaling(QUICK)
        case "lanes":
            limits = Limits(connection_age_seconds=2)
            return made.middleware(grind).lanes(min=1, max=3).limits(limits).scaling(QUICK)
        case _:
            return made.chain()


def _divided(made: Hub, changes: dict[str, Any]) -> Hub:
    """Divide by the source, which keeps the order of each client, or by the id."""
    step = Throttle(100_000) if changes["step"] == "throttle" else Deduplicator()
    return made.middleware(step, name=changes["step"], partitions=changes["partitions"])


hub = build()
