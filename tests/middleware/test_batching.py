"""A model is called with events of many batches, and each event has a result of its own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from polku import Batched, Batching, Event, Hub, PlanError, RejectedError, RetryableError, StdoutEmitter, new_event
from polku.contracts import Outcome as Result
from polku.middleware.adapt import as_step
from polku.testing import Outcome, Pause, VirtualClock
from polku.testing import run as run_hub
from tests.middleware.harness import events, ids, refused, work
from tests.support.clock import FakeClock


class Classifier:
    """Note the size of each call, and label events by their type."""

    def __init__(self, label: str = "class") -> None:
        self.label = label
        self.sizes: list[int] = []
        self.thread = threading.get_ident()

    def predict(self, given: list[Event]) -> list[Mapping[str, str] | Exception]:
        assert threading.get_ident() == self.thread
        self.sizes.append(len(given))
        return [
            ValueError("no such type") if event.event_type == "bad" else {self.label: str(len(given))}
            for event in given
        ]


def hub(model: object, **batching: Any) -> Hub:
    return Hub().middleware(model, batching=Batching(**batching), name="model").emitter(StdoutEmitter(), name="out")


async def call(model: object, given: list[Event]) -> Result:
    step: Any = as_step(Batched(model), FakeClock())
    await step.start()
    try:
        return await work(step, given)
    finally:
        await step.close()


def sizes(outcome: Outcome) -> list[str]:
    """Return for each event that was delivered how many events its call had."""
    return [event.metadata["class"] for event in outcome.delivered["out"]]


def numbered(count: int, kind: str = "ticket") -> list[Event]:
    return [new_event(kind, id=str(number)) for number in range(count)]


def test_calls_are_filled_with_events_of_many_batches() -> None:
    assert sizes(run_hub(hub(Classifier, max_events=4, max_wait=1.0), numbered(8))) == ["4"] * 8


def test_a_large_batch_is_divided_into_calls() -> None:
    assert sizes(run_hub(hub(Classifier, max_events=4, max_wait=1.0), [numbered(10)])) == [*"44444444", "2", "2"]


def test_a_call_has_so_many_bytes_at_most_and_one_event_at_least() -> None:
    given = [
        new_event("ticket", id=str(number), payload=b"x" * size) for number, size in enumerate((400, 400, 2000, 400))
    ]
    outcome = run_hub(hub(Classifier, max_bytes=1000), [given])
    assert sizes(outcome) == ["2", "2", "1", "1"]


def test_the_first_event_waits_for_others_only_so_long() -> None:
    clock = VirtualClock()
    first, second, third = numbered(3)
    outcome = run_hub(
        hub(Classifier, max_events=4, max_wait=0.5), [first, Pause(0.4), second, Pause(0.4), third], clock=clock
    )
    assert sizes(outcome) == ["2", "2", "1"]


def test_what_comes_while_the_model_works_fills_the_next_call() -> None:
    async def model(given: list[Event]) -> list[dict[str, str]]:
        await asyncio.sleep(1.0)
        return [{"class": str(len(given))} for _ in given]

    given = [item for event in numbered(5) for item in (event, Pause(0.1))]
    outcome = run_hub(hub(model, max_wait=0.0, in_flight=1), given)
    assert sizes(outcome) == ["1", *"4444"]


def test_async_calls_run_at_once_up_to_a_number_and_the_order_is_kept() -> None:
    running: list[int] = []
    most: list[int] = []

    async def model(given: list[Event]) -> None:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(1.0 if given[0].id == "0" else 0.1)
        running.pop()

    outcome = run_hub(hub(model, max_events=2, in_flight=3), numbered(12))
    assert max(most) == 3
    assert [event.id for event in outcome.delivered["out"]] == [str(number) for number in range(12)]


def test_a_slow_call_bounds_how_much_is_done_ahead_of_it() -> None:
    done: list[str] = []

    async def model(given: list[Event]) -> None:
        await asyncio.sleep(100.0 if given[0].id == "0" else 0.1)
        if given[0].id == "0":
            done.append(f"{len(done)} before")
        done.extend(event.id for event in given)

    outcome = run_hub(hub(model, max_events=1, in_flight=2, timeout=200.0), numbered(100))
    assert len(outcome.delivered["out"]) == 100
    assert done.index("5 before") == 5  # 2 * (2 + 1) events may be without an outcome


def test_failures_are_each_event_s_own() -> None:
    given = [new_event("bad" if number == 2 else "ticket", id=str(number)) for number in range(5)]
    outcome = run_hub(hub(Classifier), given)
    assert [event.id for event in outcome.delivered["out"]] == ["0", "1", "3", "4"]
    assert [(dead.event.id, dead.code, dead.reason) for dead in outcome.dead] == [
        ("2", "MIDDLEWARE_ERROR", "model: ValueError: no such type")
    ]


async def test_events_on_which_the_model_raises_are_found_and_the_others_are_unharmed() -> None:
    def model(given: list[Event]) -> None:
        for event in given:
            event.metadata["seen"] = event.metadata["seen"] + "+"
        if any(event.id == "poison" for event in given):
            raise ValueError("poison")

    outcome = await call(model, events("1", "2", "poison", "4"))
    assert ids(outcome) == ["1", "2", "4"]
    assert {event.metadata["seen"] for event in outcome.events} == {"+"}
    assert refused(outcome) == {"poison": "MIDDLEWARE_ERROR: model: ValueError: poison"}
    assert [dead.refusal.position for dead in outcome.refused] == [2]


async def test_an_event_has_the_result_that_stands_at_its_place() -> None:
    other = new_event("other", id="other")

    def model(given: list[Event]) -> list[object]:
        return [None, other, {"a": "1"}, KeyError("x"), 7, {"a": 1}, given[6]]

    outcome = await call(model, events("0", "1", "2", "3", "4", "5", "6"))
    assert ids(outcome) == ["0", "other", "2", "6"]
    assert outcome.events[2].metadata["a"] == "1"
    assert outcome.origins == [(0,), (1,), (2,), (6,)]
    reasons = refused(outcome)
    assert reasons["3"] == "MIDDLEWARE_ERROR: model: KeyError: 'x'"
    for place, shown in (("4", "7 (int)"), ("5", "{'a': 1} (dict)")):
        assert reasons[place] == (
            f"MIDDLEWARE_ERROR: model: returned {shown}, "
            "expected None, an Event, a mapping of strings to strings, or an exception"
        )


@pytest.mark.parametrize("result", [[], 7, "abc", {"a": "b"}])
async def test_events_for_which_there_is_not_one_result_each_are_found_too(result: object) -> None:
    def model(given: list[Event]) -> object:
        return result if any(event.id == "2" for event in given) else None

    outcome = await call(model, events("1", "2", "3"))
    assert ids(outcome) == ["1", "3"]
    assert "expected a result for each of 1 events" in refused(outcome)["2"]


async def test_a_model_that_is_busy_is_called_again_after_the_pause_that_it_names() -> None:
    calls: list[int] = []

    async def model(given: list[Event]) -> None:
        calls.append(len(given))
        if len(calls) < 3:
            raise RetryableError("full", retry_after=0.001)

    outcome = await call(model, events("1", "2"))
    assert calls == [2, 2, 2]
    assert ids(outcome) == ["1", "2"]


def test_a_model_that_stays_busy_makes_dead_letters_after_a_while() -> None:
    clock = VirtualClock()

    def model(given: list[Event]) -> None:
        raise RetryableError("full")

    outcome = run_hub(hub(model, retry_for=30.0), [numbered(4)], clock=clock)
    assert [dead.reason for dead in outcome.dead] == ["model: RetryableError: full"] * 4
    assert 20.0 < clock.seconds < 40.0


def test_a_call_that_takes_too_long_costs_the_events_that_make_it_so() -> None:
    async def model(given: list[Event]) -> None:
        if any(event.id == "3" for event in given):
            await asyncio.sleep(1e6)

    outcome = run_hub(hub(model, timeout=8.0), [numbered(4)])
    assert [event.id for event in outcome.delivered["out"]] == ["0", "1", "2"]
    assert [(dead.event.id, dead.code) for dead in outcome.dead] == [("3", "MIDDLEWARE_TIMEOUT")]


async def test_what_ends_a_process_is_a_failure_as_any_other() -> None:
    def model(given: list[Event]) -> None:
        raise SystemExit(3)

    outcome = await call(model, events("1"))
    assert "SystemExit" in refused(outcome)["1"]


class Loaded:
    """Note in which order its methods are called, and that they are called in one thread."""

    told: list[str] = []  # noqa: RUF012 - the test reads it

    def __init__(self, weights: str) -> None:
        self.note(f"made with {weights}", threading.get_ident())

    def note(self, what: str, thread: int) -> None:
        self._thread = getattr(self, "_thread", thread)
        assert self._thread == threading.get_ident() != threading.main_thread().ident
        self.told.append(what)

    def start(self) -> None:
        self.note("loaded", 0)

    def warm_up(self) -> None:
        self.note("warm", 0)

    def predict(self, given: list[Event]) -> None:
        self.note(f"called with {[event.id for event in given]}", 0)

    def close(self) -> None:
        self.note("closed", 0)


def test_a_model_is_made_and_loaded_once_and_warmed_up_before_it_gets_events() -> None:
    Loaded.told.clear()
    model = functools.partial(Loaded, "w.bin")
    example = new_event("ticket", id="example")
    run_hub(hub(model, max_events=2, warm_up=example), numbered(2))
    assert Loaded.told == [
        "made with w.bin",
        "loaded",
        "warm",
        "called with ['example', 'example']",
        "called with ['0', '1']",
        "closed",
    ]


@pytest.mark.parametrize("answer", [ValueError("no weights"), [ValueError("no weights")]])
def test_a_model_that_fails_on_its_warm_up_keeps_the_pipeline_from_starting(answer: Any) -> None:
    def model(given: list[Event]) -> Sequence[Exception]:
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    with pytest.raises(ValueError, match="no weights"):
        hub(model, max_events=1, warm_up=new_event("ticket")).start(runtime="inline").sender()


def test_the_shape_of_calls_is_in_the_statistics() -> None:
    with hub(Classifier, max_events=4, max_wait=0.0).start(runtime="inline") as pipeline:
        pipeline.sender().send(numbered(10))
        calls = pipeline.statistics().lanes[0].stages["stage-1"].calls
    assert calls is not None
    assert (calls.full, calls.aged, calls.max_events, calls.waiting) == (2, 1, 4, 0)
    assert calls.events.count == 3
    assert calls.events.sum == 10
    assert calls.fill == pytest.approx(10 / 12)
    assert calls.seconds.count == 3


def test_a_test_replaces_a_model_by_another_one() -> None:
    def fake(given: list[Event]) -> list[dict[str, str]]:
        return [{"class": f"fake of {len(given)}"} for _ in given]

    outcome = run_hub(hub(Classifier, max_events=2), numbered(2), replace={"model": fake})
    assert sizes(outcome) == ["fake of 2"] * 2


def test_a_model_may_be_a_decorated_function() -> None:
    pipeline = Hub().emitter(StdoutEmitter(), name="out")

    @pipeline.step(batching=Batching(max_events=2))
    def label(given: list[Event]) -> list[dict[str, str]]:
        return [{"class": str(len(given))} for _ in given]

    assert sizes(run_hub(pipeline, numbered(2))) == ["2", "2"]
    assert pipeline.plan("inline").stages[0].middleware[0].name == "label"


class NoModel:
    """Have no `predict`."""


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (NoModel, "is no model; pass a function of the list of events, or a class or object with predict"),
        (NoModel(), "is no model"),
        (7, "is no model"),
        (lambda: None, "must take one argument: the list of events"),
    ],
)
def test_what_is_no_model_is_said_at_once(model: object, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        Hub().middleware(model, batching=Batching())


@pytest.mark.parametrize(
    "options", [{"max_events": 0}, {"max_bytes": 0}, {"max_wait": -1}, {"in_flight": 0}, {"warm_up": 7}, {"timeout": 0}]
)
def test_wrong_options_are_said_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=next(iter(options))):
        Batching(**options)


def test_an_object_of_nothing_but_a_call_is_a_model() -> None:
    class Callable:
        def __call__(self, given: list[Event]) -> list[dict[str, str]]:
            return [{"class": "called"} for _ in given]

    for model in (Callable, Callable()):
        assert sizes(run_hub(hub(model), numbered(1))) == ["called"]


async def test_a_rejected_call_is_divided_as_any_other_that_fails() -> None:
    def model(given: list[Event]) -> None:
        if given[0].id == "1":
            raise RejectedError("not this one")

    outcome = await call(model, events("1", "2"))
    assert refused(outcome) == {"1": "MIDDLEWARE_ERROR: model: RejectedError: not this one"}
