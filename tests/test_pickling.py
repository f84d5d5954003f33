"""What cannot be sent to an actor is named: the component, its field, and the variable that a function uses."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import pytest

from polku import Batch, Event, Filter, Hub, PlanError, StdoutEmitter, Transform


def said(hub: Hub) -> str:
    with pytest.raises(PlanError) as caught:
        hub.plan("ray")
    return str(caught.value)


def test_the_variable_of_a_lambda_is_named() -> None:
    lock = threading.Lock()
    text = said(Hub().middleware(Filter(lambda event: lock.locked())).emitter(StdoutEmitter()))
    assert text.startswith("middleware Filter(lambda): cannot be sent to an actor: predicate=<function")
    assert "which uses the variable 'lock' (lock; " in text
    assert "test_pickling.py:" in text
    assert "cannot pickle '_thread.lock' object; open files, sockets and locks in start()" in text


@pytest.mark.parametrize("wrap", [lambda function: function, functools.partial])
def test_the_variable_of_a_function_that_is_a_part_itself_is_named(wrap: Callable[..., object]) -> None:
    lock = threading.Lock()

    def change(event: Event) -> None:
        with lock:
            event.metadata["seen"] = "yes"

    assert "uses the variable 'lock'" in said(Hub().middleware(wrap(change)).emitter(StdoutEmitter()))


def test_the_variable_of_an_emitter_is_named() -> None:
    lock, other = threading.Lock(), "fine"

    def store(batch: Batch) -> None:
        print(other, lock)

    assert "uses the variable 'lock'" in said(Hub().middleware(Transform(print)).emitter(store))


def test_a_field_is_named() -> None:
    class Shelf:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def emit(self, batch: Batch) -> None:
            pass

    assert "lock=<unlocked _thread.lock object" in said(Hub().emitter(Shelf()))
