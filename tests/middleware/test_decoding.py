"""`Transform(function, decode=Order)`: payloads as values of a type, in and out."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import msgspec
import pytest

from polku import Event, Hub, PlanError, StdoutEmitter, Transform, new_event
from polku.testing import run


class Order(msgspec.Struct):
    amount: int
    currency: str = "EUR"


@dataclasses.dataclass
class Item:
    name: str


def double(event: Event, order: Order) -> Order:
    event.metadata["currency"] = order.currency
    return Order(order.amount * 2, order.currency)


async def double_async(event: Event, order: Order) -> Order:
    return double(event, order)


def only_look(event: Event, order: Order) -> None:
    event.metadata["amount"] = str(order.amount)


def replaced(event: Event, item: Item) -> Event:
    return new_event("item", id=event.id, payload=item.name.encode())


def outcome_of(transform: Transform, payload: bytes) -> Any:
    return run(Hub().middleware(transform).emitter(StdoutEmitter()), new_event("order", id="1", payload=payload))


@pytest.mark.parametrize("function", [double, double_async])
def test_a_value_that_is_returned_becomes_the_payload(function: Any) -> None:
    (event,) = outcome_of(Transform(function, decode=Order), b'{"amount": 4, "other": 1}').events
    assert (event.payload, event.metadata["currency"]) == (b'{"amount":8,"currency":"EUR"}', "EUR")


def test_a_function_may_only_look_and_may_replace_the_event() -> None:
    (event,) = outcome_of(Transform(only_look, decode=Order), b'{"amount": 4}').events
    assert (event.payload, event.metadata["amount"]) == (b'{"amount": 4}', "4")
    (event,) = outcome_of(Transform(replaced, decode=Item), b'{"name": "x"}').events
    assert (event.event_type, event.payload) == ("item", b"x")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"amount": "x"}', "Expected `int`, got `str` - at `$.amount`"),
        (b"{]", "JSON is malformed"),
        (b"", "truncated"),
    ],
)
def test_a_payload_of_another_form_is_a_dead_letter(payload: bytes, said: str) -> None:
    (letter,) = outcome_of(Transform(double, decode=Order), payload).dead
    assert said in letter.reason


def test_a_result_of_another_type_is_a_dead_letter() -> None:
    def wrong(event: Event, order: Order) -> Any:
        return "eight"

    (letter,) = outcome_of(Transform(wrong, decode=Order), b'{"amount": 4}').dead
    assert "Expected `object`, got `str`" in letter.reason


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (functools.partial(Transform, lambda event: None, decode=Order), "must take the event and the decoded payload"),
        (functools.partial(Transform, double, decode=Order, batch=True), "leave batch=True out"),
        (functools.partial(Transform, double, decode=3), "is no type that msgspec can decode"),
        (functools.partial(Transform, double), "must take one argument: the event"),
    ],
)
def test_a_wrong_use_is_an_error_at_once(make: Any, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        make()
    assert said in str(caught.value)


def test_it_can_be_sent_to_an_actor() -> None:
    from ray import cloudpickle

    again = cloudpickle.loads(cloudpickle.dumps(Transform(double, decode=Order)))
    assert outcome_of(again, b'{"amount": 1}').events[0].payload == b'{"amount":2,"currency":"EUR"}'
