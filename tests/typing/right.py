"""What users write, rightly; type checkers have nothing to say about it, strict as they may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_type

import msgspec

from polku import (
    Batch,
    ClaimCheck,
    Event,
    Failure,
    Filter,
    Hub,
    RayEventsIngestor,
    Redeem,
    Router,
    ServeEmitter,
    ServeMiddleware,
    StdoutEmitter,
    Transform,
    new_event,
)
from polku.testing import Flaky, Outcome, Pause, run


class Order(msgspec.Struct):
    amount: int


def in_place(event: Event) -> None:
    event.metadata["seen"] = "yes"


def another(event: Event) -> Event:
    return new_event("copy", id=event.id)


async def slowly(event: Event) -> Event | None:
    return event if event.payload else None


def all_of_them(events: list[Event]) -> Iterable[Event]:
    return [event for event in events if event.id]


def doubled(event: Event, order: Order) -> Order:
    return Order(order.amount * 2)


async def doubled_slowly(event: Event, order: Order) -> Order | None:
    return Order(order.amount * 2)


def team(event: Event, answer: dict[str, str]) -> dict[str, str]:
    return {"team": answer.get("team", event.source)}


class Shelf:
    name = "shelf"

    def emit(self, batch: Batch) -> Sequence[Failure]:
        return [Failure(event.id, "no") for event in batch]


hub = (
    Hub()
    .middleware(Filter(lambda event: event.event_type.startswith("a")))
    .middleware(Filter(lambda events: [bool(event.id) for event in events], batch=True))
    .middleware(Transform(in_place))
    .middleware(Transform(another, timeout=5.0))
    .middleware(Transform(slowly, concurrency=8))
    .middleware(Transform(all_of_them, batch=True))
    .middleware(Transform(doubled, decode=Order))
    .middleware(Transform(doubled_slowly, decode=Order))
    .middleware(Router().when(lambda event: event.severity > 3, to=["audit", "shelf"]).default("audit"))
    .emitter(StdoutEmitter(), name="audit")
    .ingestor(RayEventsIngestor(remember=100))
    .middleware(ClaimCheck("s3://bucket/claims", over=100_000, options={"region": "eu-north-1"}))
    .middleware(Redeem("s3://bucket/claims", max_bytes=10_000_000))
    .middleware(ServeMiddleware("triage", request=lambda event: event.payload, answer=team), name="triage")
    .emitter(ServeEmitter("support", deployment="Assistant", request=lambda event: {"id": event.id}))
    .emitter(Shelf())
)


@hub.step
def step(event: Event) -> None:
    event.metadata["step"] = "yes"


@hub.step(name="other", replicas=2)
def other(event: Event) -> Event:
    return event


@hub.destination("archive", always=True)
def archive(batch: Batch) -> None:
    print(len(batch))


step(new_event("x"))
assert_type(other(new_event("x")), Event)
archive(Batch.from_events([]))
outcome = run(hub, [new_event("a"), Pause(60)], replace={"audit": Flaky(fail=3)}, only="in_place")
assert_type(outcome, Outcome)
assert_type(outcome.ids("audit"), list[str])
