import functools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import polku.middleware
from polku.clock import Clock
from polku.emit import StdoutEmitter
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.ingest import JsonIngestor
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
    max_size,
)
from polku.middleware.adapt import as_step, check_middleware, component_name
from polku.stage.holding import is_holder
from tests.middleware.harness import events, ids, refused, run, work
from tests.support.clock import FakeClock


def mark(event: Event) -> None:
    event.metadata["marked"] = "yes"


class Doubler:
    """A user's middleware: one method."""

    def process(self, batch: list[Event]) -> Iterator[Event]:
        for event in batch:
            yield event
            yield new_event("copy", id=event.id + "2")


ALL = {
    "Aggregator(10, 5.0, strategy=<Strategy.FIRST: 'first'>)": Aggregator(10, 5.0, strategy="first"),
    "Deduplicator(ttl=5)": Deduplicator(ttl=5),
    "Enricher({'a': 'b'})": Enricher({"a": "b"}),
    "Filter(mark, batch=True)": Filter(mark, batch=True),  # type: ignore[call-overload]
    "RateLimiter(100, burst=20)": RateLimiter(100, 20),
    "Router().source('a', to='b')": Router().source("a", to="b"),
    "Sampler(0.5, key='id')": Sampler(0.5, key="id"),
    "Throttle(5)": Throttle(5),
    "Transform(mark)": Transform(mark),
    "Validator(max_size(5))": Validator(max_size(5)),
}


@pytest.mark.parametrize("shown", ALL)
def test_a_configuration_shows_as_its_call_is_frozen_and_survives_pickling(shown: str) -> None:
    component: Any = ALL[shown]
    assert repr(component) == shown
    assert pickle.loads(pickle.dumps(component)) == component
    with pytest.raises((AttributeError, TypeError)):
        component.anything = 1
    check_middleware(component)


def test_state_that_must_be_seen_whole_is_declared() -> None:
    keys = {type(c).__name__: c.state_key for c in ALL.values() if hasattr(c, "state_key")}
    assert keys == {"Aggregator": "group", "Deduplicator": "id", "RateLimiter": "pipeline", "Throttle": "source"}


@pytest.mark.parametrize(
    "component", [c for c in ALL.values() if not isinstance(c, Aggregator)], ids=lambda c: c.__class__.__name__
)
async def test_every_step_takes_an_empty_batch_and_a_name(component: object) -> None:
    step = as_step(component, FakeClock())
    assert not is_holder(step)
    step.name = "other"
    assert (await work(step, [])).events == []
    step.settled(1, frozenset())


async def test_a_function_is_a_transform() -> None:
    async def later(event: Event) -> None:
        mark(event)

    for function in (mark, later, functools.partial(mark)):
        assert (await run(function, events("a"))).events[0].metadata["marked"] == "yes"


async def test_a_users_class_is_hosted_with_its_hooks_and_name() -> None:
    calls = []

    class Mine(Doubler):
        name = "mine"

        def start(self) -> None:
            calls.append("start")

    step: Any = as_step(Mine(), FakeClock())
    step.start()
    assert (step.name, calls) == ("mine", ["start"])
    assert ids(await work(step, events("a", "b"))) == ["a", "a2", "b", "b2"]


async def test_a_users_class_may_be_async_and_built_with_a_clock() -> None:
    class Built:
        async def process(self, batch: list[Event]) -> list[Event]:
            return batch

    class Config:
        def build(self, clock: Clock) -> Built:
            return Built()

    check_middleware(Config())
    batch = events("a")
    step = as_step(Config(), FakeClock())
    assert (await work(step, batch)).events is batch
    assert step.name == "Config"


async def test_a_users_class_that_forgets_to_return_is_told_so() -> None:
    class Forgetful:
        def process(self, batch: list[Event]) -> None:
            pass

    outcome = await run(Forgetful(), events("a"))
    assert refused(outcome) == {
        "a": "MIDDLEWARE_ERROR: Forgetful: returned None (NoneType), expected the events that go on, "
        "as a list or another iterable"
    }


class NoArgument:
    def process(self) -> None:
        pass


class Both(Doubler):
    def build(self, clock: object) -> Doubler:
        return Doubler()


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Both(), "has both build and process: leave one of them out"),
        (Doubler, "Doubler is a class; pass an object of it: .middleware(Doubler(...))"),
        ("user.", "'user.' is no middleware; pass a function of one event, an object with process(events)"),
        (None, "None is no middleware"),
        (lambda: None, "lambda must take one argument: the event"),
        (NoArgument(), "process must take one argument, the list of events"),
        (JsonIngestor(), "is no middleware"),
        (StdoutEmitter(), "StdoutEmitter is no middleware; add it with .emitter(StdoutEmitter(...))"),
    ],
)
def test_what_is_no_middleware_is_refused_by_name(component: object, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_middleware(component)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        (Filter(mark, batch=True), "Filter(mark)"),  # type: ignore[call-overload]
        (Transform(functools.partial(mark)), "Transform(mark)"),
        (Validator(max_size(5)), "Validator(max_size)"),
        (Enricher({"a": "b"}), "Enricher"),
        (Router(), "Router"),
        (mark, "mark"),
        (Doubler(), "Doubler"),
    ],
)
def test_components_are_named_for_people(component: object, name: str) -> None:
    assert component_name(component) == name


def test_public_names_are_these() -> None:
    assert polku.middleware.__all__ == sorted(polku.middleware.__all__)
    assert {name for name in polku.middleware.__all__ if not hasattr(polku.middleware, name)} == set()
