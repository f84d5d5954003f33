"""What an emitter raises or answers has the right end: held, refused or given up, with a reason that is named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku import (
    Batch,
    Breaker,
    Failure,
    MisconfiguredError,
    PlanError,
    Resilience,
    Retry,
    RetryableError,
)
from polku.clock import SystemClock
from polku.emit.adapt import as_emitter
from polku.emit.delivery import Delivery
from polku.health import Cause
from tests.emit.resilience import Scripted, batch, resilient, until
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_wrong_settings_hold_everything_and_raise_the_alarm() -> None:
    inner = Scripted(*[MisconfiguredError("401")] * 3)
    running, slept, _ = resilient(inner, retry=Retry(attempts=1))
    task = asyncio.ensure_future(running.emit(batch("a")))
    await until(lambda: bool(slept))
    assert running.statistics().alarm == "401"
    assert await task == []
    assert running.statistics().alarm == ""
    assert min(slept) >= 15


@in_virtual_time
async def test_a_call_that_hangs_is_cut_off() -> None:
    class Hanging:
        calls = 0

        async def emit(self, batch: Batch) -> None:
            self.calls += 1
            if self.calls == 1:
                await asyncio.Event().wait()

    running, _, _ = resilient(Hanging(), timeout=0.05)
    assert await running.emit(batch("a")) == []


@pytest.mark.parametrize("answer", [True, "a", ["a"], [Failure("other", "not ours")]])
@in_virtual_time
async def test_a_wrong_answer_of_an_emitter_is_explained_and_nothing_is_lost(answer: Any) -> None:
    class Wrong:
        def emit(self, batch: Batch) -> Any:
            return answer

    running, _, _ = resilient(Wrong())
    (failure,) = await running.emit(batch("a"))
    assert failure.reason.startswith("the emitter returned")
    assert not failure.retryable


@pytest.mark.parametrize(
    ("error", "attempts", "cause"),
    [
        (MisconfiguredError("401"), 3, Cause.SETTINGS),
        (RetryableError("down"), None, Cause.UNKNOWN),
        (RetryableError("down"), 3, Cause.GIVES_UP),
        (KeyError("amount"), 3, Cause.CODE),
        (KeyError("amount"), None, Cause.UNKNOWN),
    ],
)
@in_virtual_time
async def test_an_alarm_says_of_what_kind_it_is(error: Exception, attempts: int | None, cause: Cause) -> None:
    retry, breaker = Retry(attempts=attempts), Breaker(failures=1, open_for=1)
    running, slept, _ = resilient(Scripted(error), retry=retry, breaker=breaker)
    task = asyncio.ensure_future(running.emit(batch("a")))
    await until(lambda: bool(slept))
    assert running.statistics().cause is cause
    assert await task == []
    while running.statistics().alarm:  # the circuit wants another success
        await running.emit(batch("b"))
    assert running.statistics().cause is Cause.UNKNOWN


@pytest.mark.parametrize("answer", [True, "nope", ["bad"], [Failure("other", "not ours")]])
@in_virtual_time
async def test_a_wrong_answer_costs_only_the_events_for_which_it_is_given(answer: Any) -> None:
    class Wrong:
        def __init__(self) -> None:
            self.taken: list[str] = []

        def emit(self, batch: Batch) -> Any:
            if "bad" in batch.ids:
                return answer
            self.taken += batch.ids
            return None

    wrong = Wrong()
    running, slept, _ = resilient(wrong)
    (failure,) = await running.emit(batch("a", "b", "c", "d", "bad", "e"))
    assert (failure.event_id, failure.position, failure.retryable) == ("bad", 4, False)
    assert wrong.taken == ["a", "b", "c", "d", "e"]
    assert not any(slept)


@pytest.mark.parametrize("may_cut", [True, False])
@in_virtual_time
async def test_an_emitter_that_always_answers_wrongly_is_not_called_for_each_event(may_cut: bool) -> None:
    class Wrong:
        indivisible = not may_cut
        calls = 0

        def emit(self, batch: Batch) -> Any:
            self.calls += 1
            return len(batch)

    wrong = Wrong()
    running, _, _ = resilient(wrong, retry=Retry(attempts=None))
    failures = await running.emit(batch(*map(str, range(1000))))
    assert sorted(failure.position for failure in failures) == list(range(1000))
    assert wrong.calls < 50 if may_cut else wrong.calls == 1


@in_virtual_time
async def test_what_code_raises_leaves_its_traceback() -> None:
    def broken(batch: Batch) -> None:
        raise KeyError("amount")

    running, _, _ = resilient(broken, retry=Retry(attempts=2))
    (failure,) = await running.emit(batch("a"))
    assert failure.detail.startswith("Traceback (most recent call last)")
    assert f'File "{__file__}"' in failure.detail
    assert 'raise KeyError("amount")' in failure.detail


@pytest.mark.parametrize(("is_ours", "has_traceback"), [(True, False), (False, True)])
@in_virtual_time
async def test_a_destination_out_of_reach_leaves_no_traceback_but_code_does(is_ours: bool, has_traceback: bool) -> None:
    class Opening:
        may_recover = is_ours

        def emit(self, batch: Batch) -> None:
            raise FileNotFoundError(2, "no such file")

    running, _, _ = resilient(Opening(), retry=Retry(attempts=1))
    (failure,) = await running.emit(batch("a"))
    assert bool(failure.detail) is has_traceback


@in_virtual_time
async def test_a_detail_of_a_failure_is_printable_and_has_no_secrets() -> None:
    text = "line one\nhttp://user:hunter2@host\x1b[31m"
    running, _, _ = resilient(Scripted([Failure("a", "bad", retryable=False, detail=text)]))
    (failure,) = await running.emit(batch("a"))
    assert failure.detail == "line one\nhttp://user:***@host\\x1b[31m"


@pytest.mark.parametrize("options", [{"retry": 3}, {"breaker": None}, {"timeout": -1}])
def test_a_wrong_setting_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"Resilience\(" + next(iter(options))):
        Resilience(Scripted(), **options)


def test_wrapping_keeps_the_name() -> None:
    class NamedEmitter:
        name = "mine"

        def emit(self, batch: Batch) -> None:
            pass

    assert Resilience(NamedEmitter()).name == "mine"


@in_virtual_time
async def test_one_event_on_which_code_fails_does_not_cost_the_others() -> None:
    done: list[str] = []

    def emit(batch: Batch) -> None:
        if "bad" in batch.ids:
            raise ValueError("no such column")
        done.extend(batch.ids)

    running, slept, _ = resilient(emit, retry=Retry(attempts=5))
    names = [str(n) for n in range(500)]
    (failure,) = await running.emit(batch(*names[:300], "bad", *names[300:]))
    assert (failure.event_id, failure.position, failure.retryable) == ("bad", 300, False)
    assert failure.reason == "ValueError: no such column"
    assert sorted(done) == sorted(names)
    assert len(slept) < 40


@in_virtual_time
async def test_code_that_fails_on_every_event_is_given_up_after_a_few() -> None:
    inner = Scripted(*[KeyError("user")] * 200)
    running, _, _ = resilient(inner, retry=Retry(attempts=5))
    failures = await running.emit(batch(*map(str, range(500))))
    assert len({failure.position for failure in failures}) == 500
    assert len(inner.calls) < 30


@in_virtual_time
async def test_after_nonsense_no_event_is_given_up_that_was_in_no_such_call() -> None:
    """The first call had no answer in time, so that the last two events were in no call but that one."""
    inner = Scripted(TimeoutError(), *["nonsense"] * 10)
    emitter, _, _ = resilient(inner)
    ids = [str(number) for number in range(10)]
    failures = await emitter.emit(batch(*ids))
    assert [failure.event_id for failure in failures] == ids[:8]
    assert {event_id for call in inner.calls[1:] for event_id in call} == set(ids)


class LibraryError(Exception):
    """What a client of a database has for everything."""


class Table:
    """Raise what a library does, for `bad` events or, while it is down, for all."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.is_down = False
        self.rows: list[str] = []
        self.calls = 0

    async def emit(self, batch: Batch) -> None:
        self.calls += 1
        if self.is_down or self.bad & {*batch.ids}:
            raise LibraryError("cannot insert")
        self.rows += batch.ids


class LoopClock(SystemClock):
    """The time of the event loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def delivery(inner: Any) -> Delivery:
    """Return an emitter of a pipeline as it is without a resilience of its own, in virtual time."""
    return Delivery("table", as_emitter(inner, LoopClock()))


@in_virtual_time
async def test_what_a_library_raises_for_all_is_a_destination_that_is_down() -> None:
    table = Table()
    table.is_down = True
    running = delivery(table)
    tasks = [asyncio.create_task(running.deliver(batch(*map(str, range(at, at + 10))))) for at in (0, 10, 20)]
    await asyncio.sleep(300)
    assert (table.calls > 100, running.statistics().failed) == (True, 0)
    table.is_down = False
    assert [(await task).refused for task in tasks] == [(), (), ()]
    assert sorted(map(int, table.rows)) == list(range(30))


@pytest.mark.parametrize("events", [1, pytest.param(2, marks=pytest.mark.slow), 3])
@in_virtual_time
async def test_what_a_library_raises_costs_no_event_however_few_are_there(events: int) -> None:
    table = Table()
    table.is_down = True
    running = delivery(table)
    task = asyncio.create_task(running.deliver(batch(*map(str, range(events)))))
    await asyncio.sleep(600)
    assert (table.calls > 100, running.statistics().failed) == (True, 0)
    table.is_down = False
    assert (await task).refused == ()


@in_virtual_time
async def test_one_event_for_which_a_library_raises_is_given_up_once_others_were_taken_twice() -> None:
    table = Table("bad")
    running = delivery(table)
    first = asyncio.create_task(running.deliver(batch("bad")))
    await asyncio.sleep(600)
    assert running.statistics().failed == 0
    second = asyncio.create_task(running.deliver(batch("a", "b")))
    assert [refusal.event_id for refusal in (await first).refused] == ["bad"]
    assert ((await second).refused, sorted(table.rows)) == ((), ["a", "b"])


@in_virtual_time
async def test_events_for_which_a_library_raises_are_given_up_where_others_are_taken() -> None:
    table = Table(*(f"bad{at}" for at in range(40)))
    running = delivery(table)
    first = asyncio.create_task(running.deliver(batch(*table.bad)))
    await asyncio.sleep(300)
    assert running.statistics().failed == 0  # nothing else was there
    second = asyncio.create_task(running.deliver(batch("a", "bad0", *"bcdef")))
    assert sorted(refusal.event_id for refusal in (await first).refused) == sorted(table.bad)
    later = [asyncio.create_task(running.deliver(batch(name))) for name in "ghij"]  # they show that it works
    assert [(refusal.event_id, refusal.position) for refusal in (await second).refused] == [("bad0", 1)]
    assert [(await each).refused for each in later] == [()] * 4
    assert sorted(table.rows) == [*"abcdefghij"]


@in_virtual_time
async def test_a_destination_that_goes_away_while_a_fault_is_looked_for_costs_nothing() -> None:
    class Store(Table):
        async def emit(self, batch: Batch) -> None:
            self.calls += 1
            if self.is_down:
                raise ConnectionRefusedError
            if "bad" in batch.ids:
                self.is_down = self.calls == 5  # from the next call on
                raise ValueError("no such column")
            self.rows += batch.ids

    store = Store()
    task = asyncio.create_task(delivery(store).deliver(batch("a", "b", "bad", "c", "d")))
    await asyncio.sleep(300)
    assert (store.is_down, task.done()) == (True, False)
    store.is_down = False
    assert [refusal.event_id for refusal in (await task).refused] == ["bad"]
    assert store.rows == ["a", "b", "c", "d"]
