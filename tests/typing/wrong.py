"""The mistakes that people make: each marked line is an error to type checkers, and nothing else is."""

from __future__ import annotations

import msgspec

from polku import (
    Batch,
    ClaimCheck,
    Event,
    Filter,
    Hub,
    RayEventsIngestor,
    Redeem,
    Router,
    ServeEmitter,
    ServeMiddleware,
    Transform,
    new_event,
)
from polku.testing import run


class Order(msgspec.Struct):
    amount: int


class Item(msgspec.Struct):
    name: str


def returns_text(event: Event) -> str:
    return event.id


def takes_number(number: int) -> None:
    print(number)


def takes_two(event: Event, other: Event) -> None:
    print(event, other)


def of_item(event: Event, item: Item) -> Item:
    return item


def one_truth(events: list[Event]) -> bool:
    return bool(events)


hub = Hub()
Filter("order")  # error
Filter(lambda: True)  # error
Filter(takes_number)  # error
Filter(one_truth, batch=True)  # error
Filter(lambda event: event.event_typ == "x")  # error
Transform(returns_text)  # error
Transform(takes_two)  # error
Transform(takes_number)  # error
Transform(of_item, decode=Order)  # error
Transform(of_item)  # error
Transform(lambda event: event.id, batch=True)  # error
Transform(returns_text, bach=True)  # error
ServeEmitter("support", request=takes_number)  # error
ServeEmitter("support", "Assistant")  # error
ClaimCheck("s3://bucket", 100_000)  # error
Redeem(over=3)  # error
RayEventsIngestor(remember="many")  # error
ServeMiddleware("triage", answer=lambda result: result)  # error
Router().when(lambda event: event.severity > 3)  # error
Router().when(takes_number, to="audit")  # error
Router().default(3)  # error
new_event("x", metadta={})  # error
run(hub, ["order"])  # error
run(hub, new_event("x")).delivered.audit  # error  # noqa: B018
hub.step(name=3)  # error


@hub.destination  # error
def archive(batch: Batch) -> None:
    print(batch)
