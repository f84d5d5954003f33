import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.middleware import Transform
from polku.middleware.adapt import as_step
from tests.middleware.harness import events, ids, refused, run, work
from tests.support.clock import FakeClock
from tests.support.virtual_time import in_virtual_time


def mark(event: Event) -> None:
    event.metadata["marks"] = event.metadata["marks"] + "x"


async def test_none_means_changed_in_place_and_the_same_list_comes_back() -> None:
    given = events("a", "b")
    outcome = await work(as_step(Transform(mark), FakeClock()), given)
    assert outcome.events is given
    assert [event.metadata["marks"] for event in given] == ["x", "x"]


async def test_returning_the_event_itself_is_the_same_as_none() -> None:
    given = events("a", "b")
    outcome = await work(as_step(Transform(lambda event: event if event.id == "a" else None), FakeClock()), given)
    assert outcome.events is given


async def test_a_returned_event_takes_the_place_of_the_given_one_and_gets_what_it_lacks() -> None:
    clock = FakeClock()
    outcome = await run(Transform(lambda event: Event(event_type="new")), events("a"), clock=clock)
    (event,) = outcome.events
    assert (event.event_type, event.timestamp_unix_ns) == ("new", clock.time_ns())
    assert len(event.id) == 26


async def test_an_exception_in_the_middle_runs_the_function_on_no_event_twice() -> None:
    def fail_on_b(event: Event) -> None:
        mark(event)
        if event.id in "bd":
            raise ValueError(event.id)

    outcome = await run(Transform(fail_on_b), events("a", "b", "c", "d", "e"))
    assert [(event.id, event.metadata["marks"]) for event in outcome.events] == [("a", "x"), ("c", "x"), ("e", "x")]
    assert refused(outcome) == {
        "b": "MIDDLEWARE_ERROR: Transform(fail_on_b): ValueError: b",
        "d": "MIDDLEWARE_ERROR: Transform(fail_on_b): ValueError: d",
    }


async def test_a_wrong_return_value_is_named_with_what_was_expected() -> None:
    wrong: Any = {"id": 1}
    outcome = await run(Transform(lambda event: wrong if event.id == "a" else None), events("a", "b"))
    assert ids(outcome) == ["b"]
    assert refused(outcome) == {
        "a": "MIDDLEWARE_ERROR: Transform(lambda): returned {'id': 1} (dict), expected an Event, "
        "or None where it was changed in place"
    }


async def test_an_exception_whose_text_cannot_be_had_is_still_only_its_event() -> None:
    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail(event: Event) -> None:
        raise BadError

    assert "BadError" in refused(await run(Transform(fail), events("a")))["a"]


async def test_an_async_function_called_with_wrong_arguments_does_not_escape() -> None:
    class Wrong:
        async def __call__(self, event: Event) -> None:
            raise TypeError("inside")

    assert "TypeError: inside" in refused(await run(Transform(Wrong()), events("a")))["a"]


@in_virtual_time
async def test_async_timeouts_and_errors_are_told_apart() -> None:
    async def fail(event: Event) -> None:
        if event.id == "a":
            raise TimeoutError("upstream")
        await asyncio.Event().wait()

    codes = refused(await run(Transform(fail, timeout=0.001), events("a", "b")))
    assert codes["a"].startswith("MIDDLEWARE_ERROR: Transform(fail): TimeoutError: upstream")
    assert codes["b"].startswith("MIDDLEWARE_TIMEOUT")


async def test_a_batch_function_may_replace_add_and_drop() -> None:
    def twice(given: list[Event]) -> list[Event]:
        return [given[0], new_event("made", id="new")]

    assert ids(await run(Transform(twice, batch=True), events("a", "b", "c"))) == ["a", "new"]


async def test_a_batch_function_may_yield_and_may_change_its_list_in_place() -> None:
    def generate(given: list[Event]) -> Iterator[Event]:
        yield from reversed(given)

    def pop(given: list[Event]) -> None:
        given.pop()

    given = events("a", "b")
    assert ids(await run(Transform(generate, batch=True), given)) == ["b", "a"]
    assert ids(await run(Transform(pop, batch=True), given)) == ["a"]
    assert len(given) == 2


@pytest.mark.parametrize("count", [1, 2, 7, 64])
async def test_a_batch_that_raises_is_halved_until_the_bad_events_are_known_and_none_is_changed_twice(
    count: int,
) -> None:
    def fail_on_odd(given: list[Event]) -> list[Event]:
        for event in given:
            mark(event)
            if int(event.id) % 5 == 3:
                raise ValueError(event.id)
        return given

    outcome = await run(Transform(fail_on_odd, batch=True), events(*map(str, range(count))))
    bad = [str(number) for number in range(count) if number % 5 == 3]
    assert list(refused(outcome)) == bad
    assert ids(outcome) == [str(number) for number in range(count) if number % 5 != 3]
    assert {event.metadata["marks"] for event in outcome.events} == {"x"}
    assert all(dead.event.metadata["marks"] == "" for dead in outcome.refused)  # dead letters hold what came


async def test_one_wrong_value_among_the_returned_costs_only_its_event() -> None:
    nothing: Any = None
    outcome = await run(
        Transform(lambda given: [nothing if event.id == "b" else event for event in given], batch=True),
        events("a", "b"),
    )
    assert ids(outcome) == ["a"]
    assert "returned None (NoneType)" in refused(outcome)["b"]


@in_virtual_time
async def test_a_batch_function_that_hangs_on_one_event_costs_only_that_one() -> None:
    async def hang_on_b(given: list[Event]) -> list[Event]:
        if any(event.id == "b" for event in given):
            await asyncio.Event().wait()
        return given

    outcome = await run(Transform(hang_on_b, batch=True, timeout=0.02), events(*"abcd"))
    assert ids(outcome) == ["a", "c", "d"]
    assert refused(outcome)["b"].startswith("MIDDLEWARE_TIMEOUT: Transform(hang_on_b): did not return within")


@in_virtual_time
async def test_a_batch_function_that_always_hangs_is_given_up_after_three_timeouts() -> None:
    calls = 0

    async def hang(given: list[Event]) -> list[Event]:
        nonlocal calls
        calls += 1
        await asyncio.Event().wait()
        return given

    outcome = await run(Transform(hang, batch=True, timeout=0.005), events(*map(str, range(1000))))
    assert len(outcome.refused) == 1000
    assert calls < 60
