import asyncio
from collections.abc import Callable, Iterator

import pytest

from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware import Filter
from polku.middleware.adapt import as_step
from tests.middleware.harness import events, ids, refused, run, work
from tests.support.clock import FakeClock
from tests.support.virtual_time import in_virtual_time


async def test_events_for_which_the_predicate_is_true_go_on_in_order() -> None:
    outcome = await run(Filter(lambda event: event.id != "b"), events("a", "b", "c"))
    assert ids(outcome) == ["a", "c"]


async def test_the_same_list_comes_back_when_nothing_was_dropped() -> None:
    given = events("a", "b")
    assert (await work(as_step(Filter(lambda event: True), FakeClock()), given)).events is given
    assert (
        await work(as_step(Filter(lambda given: [True] * len(given), batch=True), FakeClock()), given)
    ).events is given


async def test_an_event_on_which_the_predicate_raises_is_refused_with_traceback_and_the_others_go_on() -> None:
    def is_good(event: Event) -> bool:
        if event.id == "b":
            raise ValueError("no b")
        return event.id != "c"

    outcome = await run(Filter(is_good), events("a", "b", "c", "d"))
    assert ids(outcome) == ["a", "d"]
    assert refused(outcome) == {"b": "MIDDLEWARE_ERROR: Filter(is_good): ValueError: no b"}
    assert "Traceback" in outcome.refused[0].detail
    assert "in is_good" in outcome.refused[0].detail


async def test_a_predicate_that_raises_stop_iteration_costs_only_its_event() -> None:
    def stop(event: Event) -> bool:
        if event.id == "a":
            raise StopIteration
        return True

    outcome = await run(Filter(stop), events("a", "b"))
    assert ids(outcome) == ["b"]
    assert list(refused(outcome)) == ["a"]


async def test_an_async_predicate_keeps_the_order_whatever_finishes_first() -> None:
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def after_the_next(event: Event) -> bool:
        if event.id == "a":
            await gates["b"].wait()
        gates[event.id].set()
        return True

    assert ids(await run(Filter(after_the_next), events("a", "b"))) == ["a", "b"]


async def test_no_more_than_concurrency_calls_run_at_once() -> None:
    now, most = 0, 0

    async def count(event: Event) -> bool:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return True

    await run(Filter(count, concurrency=3), events(*"abcdefgh"))
    assert most == 3


@in_virtual_time
async def test_an_async_predicate_that_takes_too_long_costs_only_its_event() -> None:
    async def hang(event: Event) -> bool:
        if event.id == "b":
            await asyncio.Event().wait()
        return True

    outcome = await run(Filter(hang, timeout=0.001), events("a", "b", "c"))
    assert ids(outcome) == ["a", "c"]
    assert refused(outcome) == {"b": "MIDDLEWARE_TIMEOUT: Filter(hang): did not return within 0.001 s"}


async def test_a_lambda_that_returns_a_coroutine_for_some_events_is_awaited() -> None:
    async def look_up(event: Event) -> bool:
        return False

    outcome = await run(Filter(lambda event: event.id == "a" or look_up(event)), events("a", "b", "c"))
    assert ids(outcome) == ["a"]


async def test_a_result_without_a_truth_value_is_refused() -> None:
    class Array:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    outcome = await run(Filter(lambda event: Array() if event.id == "b" else True), events("a", "b"))
    assert ids(outcome) == ["a"]
    assert "returned" in refused(outcome)["b"]
    assert "expected true or false" in refused(outcome)["b"]


async def test_a_batch_predicate_returns_one_truth_value_for_each_event() -> None:
    outcome = await run(Filter(lambda given: [event.id != "b" for event in given], batch=True), events("a", "b", "c"))
    assert ids(outcome) == ["a", "c"]


async def test_a_batch_predicate_that_returns_events_is_told_so() -> None:
    outcome = await run(Filter(lambda given: given, batch=True), events("a", "b"))
    assert ids(outcome) == []
    assert "expected 1 truth values" in refused(outcome)["a"]
    assert "Transform(..., batch=True)" in refused(outcome)["a"]


async def test_a_batch_predicate_passes_the_very_events_also_after_it_raised() -> None:
    def raise_on_b(given: list[Event]) -> list[bool]:
        if any(event.id == "b" for event in given):
            raise ValueError
        return [True for _ in given]

    given = events("a", "b", "c")
    outcome = await run(Filter(raise_on_b, batch=True), given)
    assert [event is kept for event, kept in zip([given[0], given[2]], outcome.events, strict=True)] == [True, True]
    assert list(refused(outcome)) == ["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: Filter("user."), "Filter(predicate='user.'): must be a function of the event"),  # type: ignore[call-overload]
        (lambda: Filter(lambda: True), "must take one argument: the event"),  # type: ignore[misc,arg-type]
        (lambda: Filter(print, timeout=0), "Filter(timeout=0): must be a number above 0"),
        (lambda: Filter(print, timeout=float("nan")), "Filter(timeout=nan): must be a number above 0"),
        (lambda: Filter(print, concurrency=0), "Filter(concurrency=0): must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments_are_named_with_value_and_fix(arguments: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        arguments()
    assert message in str(caught.value)


def test_a_generator_is_no_predicate() -> None:
    def generate(event: Event) -> Iterator[bool]:
        yield True

    with pytest.raises(PlanError, match="not yield it"):
        Filter(generate)
