"""Print what each built-in middleware and ingestor costs, in nanoseconds an event: `python -m tests.bench.middleware`.

A batch is 1,000 events of about 130 bytes. Each figure is the best of `ROUNDS` rounds, so it is what the code costs
and not what else the machine does; the events are decoded anew for each round, outside of what is measured.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.json_format import MessageToJson

from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.ingest import JsonIngestor, PassthroughIngestor
from polku.middleware import (
    Aggregator,
    Deduplicator,
    Enricher,
    Filter,
    RateLimiter,
    Router,
    Sampler,
    Throttle,
    Transform,
    Validator,
    json_payload,
    non_empty,
)
from polku.middleware.adapt import as_step
from polku.v1.gateway_pb2 import EventPayload

EVENTS = 1_000
ROUNDS = 7


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


def marked(event: Event) -> Event:
    event.metadata["processed"] = "true"
    return event


async def keep(event: Event) -> bool:
    return event.event_type != "user.logout"


CASES: dict[str, Any] = {
    "Filter, all pass": Filter(lambda event: event.event_type.startswith("user.")),
    "Filter, half pass": Filter(lambda event: event.id[-1] in "02468ACEGJMPRTWY"),
    "Filter, async": Filter(keep),
    "Filter, batch": Filter(lambda events: [True] * len(events), batch=True),
    "Transform, in place": Transform(mark),
    "Transform, returned": Transform(marked),
    "Transform, batch": Transform(lambda events: events, batch=True),
    "Router, 2 rules": Router().source("other", to="a").type_prefix("user.", to="b"),
    "RateLimiter": RateLimiter(1e9),
    "Throttle": Throttle(1e9),
    "Sampler, chance": Sampler(0.5),
    "Sampler, by source": Sampler(0.5, key="source"),
    "Deduplicator": Deduplicator(),
    "Enricher, table": Enricher({"region": "eu", "tier": "gold"}),
    "Enricher, function": Enricher(lambda event: {"tier": "gold"}),
    "Validator, non_empty": Validator(non_empty),
    "Validator, json_payload": Validator(json_payload, on_invalid="tag"),
    "Aggregator, 100 to 1": Aggregator(100, 60.0),
}


def events() -> list[Event]:
    """Return new events, decoded as a stage gets them."""
    payload = EventPayload()
    for number in range(EVENTS):
        event = new_event("user.login", source=f"agent-{number % 4}", payload=b'{"user": "ada", "attempt": 1, "ok": 1}')
        event.metadata["region"] = "eu-north-1"
        payload.events.append(event)
    return list(EventPayload.FromString(payload.SerializeToString()).events)


async def measure(component: Any) -> float:
    best = float("inf")
    step: Any = as_step(component, SystemClock())
    for number in range(1, ROUNDS + 1):
        batch = events()
        start = time.perf_counter_ns()
        if hasattr(step, "hold"):
            step.hold(batch, number)
        else:
            result = step.process(batch, number)
            if inspect.isawaitable(result):
                await result
            step.settled(number, frozenset())
        best = min(best, (time.perf_counter_ns() - start) / EVENTS)
    return best


def ingestors() -> Iterator[tuple[str, Callable[[], Any]]]:
    batch = events()
    lines = "\n".join(MessageToJson(event, indent=None) for event in batch).encode()
    array = b"[" + lines.replace(b"\n", b",") + b"]"
    payload = EventPayload(events=batch).SerializeToString()
    ndjson, json = IngestContext("ndjson"), IngestContext("json")
    yield "JsonIngestor, lines", lambda: list(JsonIngestor().ingest(lines, ndjson))
    yield "JsonIngestor, array", lambda: list(JsonIngestor().ingest(array, json))
    yield "PassthroughIngestor", lambda: PassthroughIngestor().ingest(payload, IngestContext("polku"))


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / EVENTS


async def middleware_costs() -> dict[str, float]:
    """Return nanoseconds an event by middleware."""
    return {name: await measure(component) for name, component in CASES.items()}


def ingestor_costs() -> dict[str, float]:
    """Return nanoseconds an event by ingestor."""
    return {name: min(timed(call) for _ in range(ROUNDS)) for name, call in ingestors()}


async def main() -> None:
    print(f"{'ns an event':>12}  ({events()[0].ByteSize()} bytes each)")
    for name, cost in (await middleware_costs() | ingestor_costs()).items():
        print(f"{cost:12.0f}  {name}")


if __name__ == "__main__":
    asyncio.run(main())
