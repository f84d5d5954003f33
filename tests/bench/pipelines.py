"""The pipelines of the table; `variant` makes one with so many stages or emitters, from the environment."""

from __future__ import annotations

import os
from typing import Any

from polku import BufferStrategy, Deduplicator, Filter, GrpcEmitter, Hub, Limits, Router, Transform

SINK = os.environ.get("POLKU_BENCH_SINK", "127.0.0.1:9")
STAGES = int(os.environ.get("BENCH_STAGES", "1"))
EMITTERS = int(os.environ.get("BENCH_EMITTERS", "1"))
LANES = int(os.environ.get("BENCH_LANES", "2"))


def is_about_users(event: Any) -> bool:
    return bool(event.event_type.startswith("user."))


def mark(event: Any) -> None:
    event.metadata["processed"] = "true"


def take_50_us(event: Any) -> None:
    for _ in range(3_900):  # without a look at the clock: a core that is shared makes it last longer
        pass


class SlowById:
    """Take 50 µs for an event, and be divided by ids."""

    state_key = "id"

    def process(self, events: list[Any]) -> list[Any]:
        for event in events:
            take_50_us(event)
        return events


def _hub() -> Hub:
    return Hub(name="bench").middleware(Filter(is_about_users)).middleware(Transform(mark))


def _variant() -> Hub:
    hub = Hub(name="bench")
    for number in range(STAGES):
        hub.middleware(Transform(mark), name=f"mark-{number}", isolate=True)
    for number in range(EMITTERS):
        hub.emitter(GrpcEmitter(SINK, name=f"sink-{number}"))
    return hub


hub = _hub().emitter(GrpcEmitter(SINK))
durable = _hub().buffer_strategy(BufferStrategy.durable("tests/bench/journal.db")).emitter(GrpcEmitter(SINK))
variant = _variant()
routed = (
    Hub(name="bench")
    .middleware(Deduplicator(ttl=60))
    .middleware(Router().type_prefix("user.", to="sink").default("other"))
    .emitter(GrpcEmitter(SINK, name="sink"))
    .emitter(GrpcEmitter(SINK, name="other"))
)
doubled = _hub().emitter(GrpcEmitter(SINK, name="one")).emitter(GrpcEmitter(SINK, name="two"))
bounded = (
    _hub()
    .limits(Limits(open_bytes=8 * 1024 * 1024))
    .buffer_strategy(BufferStrategy.ring(10_000, max_bytes=8 * 1024 * 1024))
    .emitter(GrpcEmitter(SINK))
)
chained: Any = _hub().emitter(GrpcEmitter(SINK))
if hasattr(chained, "chain"):
    chained = chained.chain().lanes(LANES)
slow = Hub(name="bench").middleware(take_50_us).emitter(GrpcEmitter(SINK))
slow_replicas = Hub(name="bench").middleware(take_50_us, replicas=2).emitter(GrpcEmitter(SINK))
slow_chained = Hub(name="bench").chain().middleware(take_50_us).emitter(GrpcEmitter(SINK))
slow_lanes = Hub(name="bench").chain().lanes(2).middleware(take_50_us).emitter(GrpcEmitter(SINK))
seen_lanes = Hub(name="bench").chain().lanes(2).middleware(Deduplicator()).emitter(GrpcEmitter(SINK))
seen_partitions = Hub(name="bench").chain().lanes(2).middleware(Deduplicator(), partitions=2).emitter(GrpcEmitter(SINK))
slow_by_id = Hub(name="bench").chain().lanes(2).middleware(SlowById()).emitter(GrpcEmitter(SINK))
slow_partitions = Hub(name="bench").chain().lanes(2).middleware(SlowById(), partitions=2).emitter(GrpcEmitter(SINK))
