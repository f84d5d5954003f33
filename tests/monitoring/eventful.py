"""A pipeline in which everything happens that is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from polku import (
    Batch,
    Batching,
    Breaker,
    BufferStrategy,
    Failure,
    Filter,
    Hub,
    Pipeline,
    Resilience,
    Retry,
    Transform,
    new_event,
)
from polku.contracts import IngestContext, SourceState
from polku.errors import RetryableError
from polku.event.v1.event_pb2 import Event
from polku.external.client import PluginState
from polku.monitoring.statistics import PipelineStatistics
from tests.monitoring.families import families

Values = dict[str, dict[tuple[str, ...], float]]


class Feed:
    """A source that pulls nothing more after its start, and lags."""

    name = "feed"

    def __init__(self) -> None:
        self._since = 0.0

    async def run(self, open_stream: Callable[..., object]) -> None:
        self._since = time.monotonic()
        await asyncio.Event().wait()

    def stop(self) -> None:
        """There is nothing to stop."""

    async def drain(self) -> None:
        """There is nothing to drain."""

    async def close(self) -> None:
        """There is nothing to close."""

    def state(self) -> SourceState:
        passed = int(1000 * (time.monotonic() - self._since)) if self._since else 0
        return SourceState("reads", "", passed, passed, passed, 0)


class Program:
    """An ingestor as if it were a plugin: each call fails."""

    def __init__(self) -> None:
        self.calls = 0

    def ingest(self, data: bytes, context: IngestContext) -> list[Event]:
        self.calls += 1
        raise ValueError("no")

    def state(self) -> PluginState:
        return PluginState("a program", "it is unhealthy" if self.calls else "", self.calls, self.calls, 0)


class Away:
    """A destination that is away."""

    name = "away"

    def emit(self, batch: Batch) -> None:
        raise RetryableError("away")


def partner(batch: Batch) -> list[Failure]:
    return [Failure(event.id, "no", retryable=False) for event in batch if event.event_type == "poison"]


def is_no_noise(event: Event) -> bool:
    return event.event_type != "noise"


def crash(event: Event) -> Event:
    if event.event_type == "crash":
        raise ValueError("crash")
    return event


class Model:
    """A model that takes its first events later."""

    def __init__(self) -> None:
        self._calls = 0

    def predict(self, events: list[Event]) -> None:
        self._calls += 1
        if self._calls == 1:
            raise RetryableError("still loading", retry_after=0.0)


def eventful(path: str) -> Hub:
    """Return the hub; what waits for `away` fills its share of three events at the second call of `happen`."""
    away = Resilience(
        Away(), retry=Retry(first=0.02, limit=0.02), breaker=Breaker(failures=2, open_for=60.0, first=60.0)
    )
    return (
        Hub()
        .source(Feed())
        .ingestor(Program(), source="program")
        .middleware(Filter(is_no_noise), name="noise")
        .middleware(Transform(crash), shadow=1.0, of="noise")
        .middleware(Transform(crash))
        .middleware(Model, batching=Batching(max_wait=0.0))
        .buffer_strategy(BufferStrategy.durable(path, capacity=3))
        .emitter(partner)
        .emitter(away, overflow="drop_newest")
    )


def happen(pipeline: Pipeline) -> None:
    """Let everything happen."""
    sender = pipeline.sender()
    for kind in ("order", "noise", "poison", "crash", "order", "order", "order"):
        sender.send(new_event(kind, source="shop"))
    lost = new_event("order", source="shop")
    lost.route_to.append("nobody")
    sender.send(lost)
    sender.send_raw(b"x", source="program")


def values(tree: PipelineStatistics) -> Values:
    """Return the samples of each metric, by their labels' values."""
    found: Values = {}
    for family in families(tree):
        kind: Any = family
        for sample in kind.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = float(sample.value)
    return found
