"""What is no `Exception`, raised by user code, costs only its own event, as any exception does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from polku import Aggregator, Enricher, Event, Filter, Router, Sampler, Transform, Validator
from polku.middleware.adapt import as_step
from tests.middleware.harness import events, ids, refused, run
from tests.support.clock import FakeClock
from tests.support.hostile import HOSTILE

Function = Callable[[Event], Any]


def raising(error: type[BaseException]) -> Function:
    def function(event: Event) -> Any:
        if event.id == "bad":
            raise error

    return function


def raising_async(error: type[BaseException], *, late: bool = False) -> Function:
    async def function(event: Event) -> Any:
        if late:
            await asyncio.sleep(0)
        if event.id == "bad":
            raise error

    return function


class Step:
    def __init__(self, function: Function) -> None:
        self.function = function

    def process(self, given: list[Event]) -> list[Event]:
        for event in given:
            self.function(event)
        return given


class AsyncStep(Step):
    async def process(self, given: list[Event]) -> list[Event]:  # type: ignore[override]
        for event in given:
            await self.function(event)
        return given


SYNC: dict[str, Callable[[Function], object]] = {
    "Transform": Transform,
    "Filter": lambda function: Filter(lambda event: function(event) is None),
    "Validator": Validator,
    "Enricher": Enricher,
    "Router": lambda function: Router().when(function, to="out"),
    "Sampler": lambda function: Sampler(1.0, key=function),
    "class": Step,
}
ASYNC = {
    "Transform": Transform,
    "Validator": Validator,
    "Enricher": Enricher,
    "class": AsyncStep,
}


@pytest.mark.parametrize("error", HOSTILE)
@pytest.mark.parametrize("kind", SYNC)
async def test_of_a_sync_function(kind: str, error: type[BaseException]) -> None:
    outcome = await run(SYNC[kind](raising(error)), events("a", "bad", "b"))
    assert ids(outcome) == ["a", "b"]
    assert error.__name__ in refused(outcome)["bad"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", HOSTILE)
@pytest.mark.parametrize("kind", ASYNC)
async def test_of_an_async_function(kind: str, error: type[BaseException], late: bool) -> None:
    outcome = await run(ASYNC[kind](raising_async(error, late=late)), events("a", "bad", "b"))
    assert ids(outcome) == ["a", "b"]
    assert error.__name__ in refused(outcome)["bad"]


async def test_a_function_that_cancels_the_task_it_runs_in() -> None:
    async def function(event: Event) -> None:
        if event.id == "bad":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)

    outcome = await run(Transform(function, concurrency=1), events("a", "bad", "b"))
    assert ids(outcome) == ["a", "b"]
    assert "CancelledError" in refused(outcome)["bad"]


@pytest.mark.parametrize("options", [{"concurrency": 1}, {"concurrency": 64}, {"batch": True}])
async def test_a_stage_that_is_cancelled_itself_stops(options: dict[str, Any]) -> None:
    begun = asyncio.Event()

    async def function(given: object) -> None:
        begun.set()
        await asyncio.sleep(60)

    work = asyncio.ensure_future(run(Transform(function, **options), events("a", "b")))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await asyncio.sleep(0)  # a turn in which its workers end
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Odd:
    """A result that raises whatever is asked of it."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        raise self.error

    def __bool__(self) -> bool:
        raise self.error

    def __repr__(self) -> str:
        raise self.error

    __hash__ = object.__hash__


@pytest.mark.parametrize("error", [*HOSTILE, ValueError])
@pytest.mark.parametrize("kind", ["Transform", "Filter", "Validator", "Enricher"])
async def test_of_a_result_that_is_looked_at(kind: str, error: type[BaseException]) -> None:
    component = {"Transform": Transform, "Filter": Filter, "Validator": Validator, "Enricher": Enricher}[kind]
    good = True if kind == "Filter" else None
    outcome = await run(component(lambda event: Odd(error) if event.id == "bad" else good), events("a", "bad", "b"))
    assert ids(outcome) == ["a", "b"]
    assert set(refused(outcome)) == {"bad"}


class Entries(dict[str, str]):
    def items(self) -> Any:
        raise SystemExit(2)


async def test_of_a_mapping_that_an_enricher_reads() -> None:
    given = events("a", "bad")
    outcome = await run(Enricher(lambda event: Entries(k="v") if event.id == "bad" else {"k": "v"}), given)
    assert ids(outcome) == ["a"]
    assert given[0].metadata["k"] == "v"
    assert "SystemExit: 2" in refused(outcome)["bad"]


@pytest.mark.parametrize("error", HOSTILE)
async def test_of_a_generator_of_a_batch(error: type[BaseException]) -> None:
    def function(given: list[Event]) -> Iterable[Event]:
        for event in given:
            if event.id == "bad":
                raise error
            yield event

    outcome = await run(Transform(function, batch=True), events("a", "bad", "b"))
    assert ids(outcome) == ["a", "b"]
    assert error.__name__ in refused(outcome)["bad"]


@pytest.mark.parametrize("error", HOSTILE)
def test_of_an_aggregators_key(error: type[BaseException]) -> None:
    step: Any = as_step(Aggregator(10, 1.0, key=lambda event: raising(error)(event) or "key"), FakeClock())
    (flush,) = step.hold(events("a", "bad"), 1)
    assert [event.id for event in flush.events] == ["bad"]
    assert error.__name__ in flush.events[0].metadata["polku.aggregate.error"]
