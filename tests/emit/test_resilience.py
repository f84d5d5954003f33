"""Retry, circuit breaker and the holding of what cannot be delivered, with a clock that stands still."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import ray.exceptions

from polku import (
    Batch,
    Breaker,
    Event,
    Failure,
    MisconfiguredError,
    PlanError,
    RejectedError,
    Resilience,
    Retry,
    RetryableError,
    WebhookEmitter,
)
from polku.clock import SystemClock
from polku.emit.adapt import as_emitter, built
from polku.emit.breaker import State
from polku.emit.parts import send_parts
from polku.emit.progress import current
from polku.emit.resilience import Resilient
from polku.health import Cause
from tests.support.clock import FakeClock


class Scripted:
    """Answer each call with the next of a script: None, failures, or an exception."""

    concurrency = 2

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls: list[list[str]] = []

    async def emit(self, batch: Batch) -> list[Failure] | None:
        self.calls.append(batch.ids)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception):
            raise answer
        return answer


def resilient(
    inner: Any, *, draw: Callable[[], float] = lambda: 1.0, **options: Any
) -> tuple[Resilient, list[float], FakeClock]:
    clock = FakeClock()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)
        await asyncio.sleep(0)

    config = Resilience(inner, **options)
    return Resilient(built(inner, clock), config, config.breaker.build(clock), sleep=sleep, draw=draw), slept, clock


async def until(state: Callable[[], bool]) -> None:
    """Let everything else run until a state is reached."""
    for _ in range(1_000):
        if state():
            return
        await asyncio.sleep(0)
    raise AssertionError("the state was not reached")


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id) for event_id in ids])


async def test_a_whole_batch_is_tried_again_with_growing_pauses() -> None:
    inner = Scripted(*[RetryableError("down")] * 4)
    running, slept, _ = resilient(inner)
    assert await running.emit(batch("a", "b")) == []
    assert inner.calls == [["a", "b"]] * 5
    assert slept == pytest.approx([0.1, 0.2, 0.4, 0.8])


async def test_pauses_have_full_jitter_and_a_limit() -> None:
    retry = Retry(first=1, factor=10, limit=5)
    assert [retry.delay(n, lambda: 0.5) for n in (1, 2, 3)] == [0.5, 2.5, 2.5]
    assert retry.delay(10_000, lambda: 0.0) == 0


async def test_only_the_failed_events_are_tried_again() -> None:
    inner = Scripted([Failure("b", "full"), Failure("c", "bad", retryable=False)], [Failure("b", "full")])
    running, _, _ = resilient(inner)
    assert await running.emit(batch("a", "b", "c")) == [Failure("c", "bad", retryable=False, position=2)]
    assert inner.calls == [["a", "b", "c"], ["b"], ["b"]]


async def test_what_is_refused_for_good_is_not_tried_again() -> None:
    inner = Scripted(RejectedError("never"))
    running, slept, _ = resilient(inner)
    failures = await running.emit(batch("a", "b"))
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("a", False), ("b", False)]
    assert slept == []


async def test_after_so_many_attempts_events_are_given_up() -> None:
    running, _, _ = resilient(Scripted(*[ValueError("bug")] * 9), retry=Retry(attempts=3))
    (failure,) = await running.emit(batch("a"))
    assert failure._replace(detail="") == Failure("a", "ValueError: bug", retryable=False, attempts=3, position=0)


async def test_the_destination_s_own_pause_is_respected() -> None:
    running, slept, _ = resilient(Scripted(RetryableError("busy", retry_after=42)))
    await running.emit(batch("a"))
    assert slept == [42]


async def test_wrong_settings_hold_everything_and_raise_the_alarm() -> None:
    inner = Scripted(*[MisconfiguredError("401")] * 3)
    running, slept, _ = resilient(inner, retry=Retry(attempts=1))
    task = asyncio.ensure_future(running.emit(batch("a")))
    await until(lambda: bool(slept))
    assert running.statistics().alarm == "401"
    assert await task == []
    assert running.statistics().alarm == ""
    assert min(slept) >= 15


async def test_the_circuit_opens_waits_and_closes_again() -> None:
    inner = Scripted(*[RetryableError("down")] * 3)
    running, slept, _ = resilient(inner, breaker=Breaker(failures=2, open_for=30, successes=2))
    assert await running.emit(batch("a")) == []
    assert [pause for pause in slept if pause >= 30] == [30, 30]
    assert running.statistics().circuit is State.HALF_OPEN
    await running.emit(batch("b"))
    assert running.statistics().circuit is State.CLOSED


async def test_later_batches_wait_while_an_earlier_one_is_tried_again() -> None:
    inner = Scripted(RetryableError("down"), RetryableError("down"))
    running, _, _ = resilient(inner)
    first = asyncio.ensure_future(running.emit(batch("first")))
    await until(lambda: bool(inner.calls))
    await asyncio.gather(first, running.emit(batch("second")))
    assert inner.calls == [["first"], ["first"], ["first"], ["second"]]


async def test_a_call_that_hangs_is_cut_off() -> None:
    class Hanging:
        calls = 0

        async def emit(self, batch: Batch) -> None:
            self.calls += 1
            if self.calls == 1:
                await asyncio.Event().wait()

    running, _, _ = resilient(Hanging(), timeout=0.05)
    assert await running.emit(batch("a")) == []


async def test_batches_that_waited_start_in_the_order_in_which_they_came() -> None:
    inner = Scripted(RetryableError("down"))
    inner.concurrency = 8
    running, _, _ = resilient(inner)
    await asyncio.gather(*(running.emit(batch(name)) for name in "abcdef"))
    assert [ids for (ids,) in inner.calls[1:]] == list("abcdef")


async def test_while_the_circuit_is_half_open_one_batch_is_tried_at_a_time() -> None:
    class Slow(Scripted):
        under_way = most = 0

        async def emit(self, batch: Batch) -> list[Failure] | None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            return await super().emit(batch)

    inner = Slow(RetryableError("down"))
    running, _, _ = resilient(inner, breaker=Breaker(failures=1, successes=4))
    await running.emit(batch("a"))
    assert running.statistics().circuit is State.HALF_OPEN
    await asyncio.gather(*(running.emit(batch(name)) for name in "bc"))
    assert inner.most == 1
    await asyncio.gather(*(running.emit(batch(name)) for name in "def"))
    assert running.statistics().circuit is State.CLOSED
    assert inner.most == 2


async def test_attempts_that_wrong_settings_cost_do_not_count() -> None:
    inner = Scripted(*[MisconfiguredError("401")] * 5, RetryableError("busy"))
    running, _, _ = resilient(inner, retry=Retry(attempts=2))
    assert await running.emit(batch("a")) == []


@pytest.mark.parametrize(
    "shortage",
    [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")],
    ids=repr,
)
async def test_attempts_for_which_the_process_lacks_something_do_not_count(shortage: Exception) -> None:
    running, slept, _ = resilient(Scripted(*[shortage] * 9), retry=Retry(attempts=2))
    assert await running.emit(batch("a")) == []
    assert slept[:3] == [0.1, 0.2, 0.4]


class Unreachable:
    """Fail so many times with the same exception, and keep what comes after that."""

    def __init__(self, error: Exception, failures: int) -> None:
        self.error = error
        self.failures = failures
        self.ids: list[str] = []

    def emit(self, batch: Batch) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        self.ids += batch.ids


async def emit_with_defaults(emitter: Unreachable) -> list[Failure]:
    running = as_emitter(emitter, SystemClock())
    assert isinstance(running, Resilient)
    running._sleep = lambda seconds: asyncio.sleep(0)
    running._circuit = Breaker(failures=1_000).build(SystemClock())
    return await running.emit(batch("a"))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("down"),
        TimeoutError("slow"),
        OSError("an HTTP library's own"),
        OSError(errno.ENOSPC, "No space left on device"),
        RetryableError("later"),
        MemoryError(),
        ray.exceptions.OutOfMemoryError("a worker was killed"),
        ray.exceptions.RaySystemError(Exception("no raylet")),
    ],
    ids=repr,
)
async def test_code_with_no_number_of_attempts_waits_for_what_is_out_of_reach(error: Exception) -> None:
    emitter = Unreachable(error, failures=50)
    assert await emit_with_defaults(emitter) == []
    assert emitter.ids == ["a"]


@pytest.mark.parametrize(
    "error",
    [
        KeyError("user"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        ray.exceptions.RayTaskError("take", "…", KeyError("user")).as_instanceof_cause(),
    ],
    ids=["code", "a path made of the event", "a task"],
)
async def test_code_that_fails_by_itself_gives_its_events_up(error: Exception) -> None:
    (failure,) = await emit_with_defaults(Unreachable(error, failures=50))
    assert (failure.event_id, failure.retryable, failure.attempts) == ("a", False, 5)


async def test_a_destination_that_refuses_everything_event_by_event_opens_the_circuit_too() -> None:
    running, slept, _ = resilient(Scripted(*[[Failure("a", "full")]] * 5))
    task = asyncio.ensure_future(running.emit(batch("a")))
    await until(lambda: len(slept) == 5)
    assert running.statistics().alarm == "full"
    assert await task == []


async def test_the_destination_s_own_pause_has_a_bound() -> None:
    running, slept, _ = resilient(Scripted(RetryableError("busy", retry_after=10.0**9)))
    await running.emit(batch("a"))
    assert slept == [3600]


@pytest.mark.parametrize("answer", [True, "a", ["a"], [Failure("other", "not ours")]])
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


async def test_what_code_raises_leaves_its_traceback() -> None:
    def broken(batch: Batch) -> None:
        raise KeyError("amount")

    running, _, _ = resilient(broken, retry=Retry(attempts=2))
    (failure,) = await running.emit(batch("a"))
    assert failure.detail.startswith("Traceback (most recent call last)")
    assert f'File "{__file__}"' in failure.detail
    assert 'raise KeyError("amount")' in failure.detail


@pytest.mark.parametrize(("is_ours", "has_traceback"), [(True, False), (False, True)])
async def test_a_destination_out_of_reach_leaves_no_traceback_but_code_does(is_ours: bool, has_traceback: bool) -> None:
    class Opening:
        may_recover = is_ours

        def emit(self, batch: Batch) -> None:
            raise FileNotFoundError(2, "no such file")

    running, _, _ = resilient(Opening(), retry=Retry(attempts=1))
    (failure,) = await running.emit(batch("a"))
    assert bool(failure.detail) is has_traceback


async def test_a_detail_of_a_failure_is_printable_and_has_no_secrets() -> None:
    text = "line one\nhttp://user:hunter2@host\x1b[31m"
    running, _, _ = resilient(Scripted([Failure("a", "bad", retryable=False, detail=text)]))
    (failure,) = await running.emit(batch("a"))
    assert failure.detail == "line one\nhttp://user:***@host\\x1b[31m"


async def forever(seconds: float) -> None:
    await asyncio.Event().wait()


async def test_a_cancelled_retry_ends_at_once_and_lets_the_next_batch_through() -> None:
    inner = Scripted(RetryableError("down"))
    config = Resilience(inner)
    running = Resilient(inner, config, config.breaker.build(FakeClock()), sleep=forever)
    task = asyncio.ensure_future(running.emit(batch("a")))
    await until(lambda: bool(inner.calls))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await running.emit(batch("b")) == []


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


class One(NamedTuple):
    """A part of one event."""

    ids: list[str]
    positions: list[int]

    def halves(self) -> list[One]:
        return [self]


class OneByOne:
    """Send each event alone, as a request that takes a while; the named ones hang once."""

    def __init__(self, seconds: float = 0.0, hanging: str = "") -> None:
        self.seconds = seconds
        self.hanging = set(hanging)
        self.sent: list[str] = []
        self.calls = 0

    async def emit(self, batch: Batch) -> list[Failure]:
        self.calls += 1
        return await send_parts([One([event.id], [n]) for n, event in enumerate(batch)], self._send)

    async def _send(self, part: One) -> list[Failure]:
        self.sent += part.ids
        if part.ids[0] in self.hanging:
            self.hanging.discard(part.ids[0])
            await asyncio.Event().wait()
        await asyncio.sleep(self.seconds)
        return []


async def test_what_was_confirmed_when_the_time_was_up_is_not_sent_again() -> None:
    inner = OneByOne(hanging="c")
    running, _, _ = resilient(inner, timeout=0.05)
    assert await running.emit(batch("a", "b", "c", "d")) == []
    assert inner.sent == ["a", "b", "c", "c", "d"]


async def test_a_call_may_take_as_long_as_it_confirms_something_in_time() -> None:
    inner = OneByOne(seconds=0.02)
    running, slept, _ = resilient(inner, timeout=0.15)
    assert await running.emit(batch(*map(str, range(20)))) == []
    assert inner.calls == 1
    assert slept == []


async def test_what_was_confirmed_before_an_exception_is_not_sent_again() -> None:
    class Half(Scripted):
        async def emit(self, batch: Batch) -> list[Failure] | None:
            self.calls.append(batch.ids)
            if len(self.calls) == 1:
                current().settle([0, 2], [Failure("c", "bad", retryable=False, position=2)])
                raise OSError("cut")
            return None

    inner = Half()
    running, _, _ = resilient(inner)
    (failure,) = await running.emit(batch("a", "b", "c", "d"))
    assert (failure.event_id, failure.reason) == ("c", "bad")
    assert inner.calls == [["a", "b", "c", "d"], ["b", "d"]]


async def test_a_slow_emitter_that_says_nothing_in_between_gets_smaller_calls_until_it_is_in_time() -> None:
    class Slow:
        def __init__(self) -> None:
            self.calls: list[int] = []
            self.done: list[str] = []

        async def emit(self, batch: Batch) -> None:
            self.calls.append(len(batch))
            await asyncio.sleep(0.004 * len(batch))
            self.done += batch.ids

    inner = Slow()
    running, _, _ = resilient(inner, timeout=0.2, retry=Retry(attempts=1))
    names = [str(n) for n in range(200)]  # 0.8 s in one call
    assert await running.emit(batch(*names)) == []
    assert inner.done == names
    assert inner.calls[0] == 200
    assert len(inner.calls) < 40


async def test_calls_become_large_again_when_the_destination_is_quick_again() -> None:
    class Hanging:
        def __init__(self) -> None:
            self.calls: list[int] = []
            self.hangs = True

        async def emit(self, batch: Batch) -> None:
            self.calls.append(len(batch))
            if self.hangs and len(batch) > 1:
                await asyncio.Event().wait()
            self.hangs = False

    inner = Hanging()
    running, _, _ = resilient(inner, timeout=0.02)
    names = [str(n) for n in range(64)]
    assert await running.emit(batch(*names)) == []
    assert inner.calls == [64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 1]


def test_an_emitter_s_own_time_limit_wins_over_the_default() -> None:
    webhook = WebhookEmitter("http://localhost/", timeout=120)
    assert Resilience(webhook).limit > 120
    assert Resilience(webhook, timeout=5).limit == 5
    assert Resilience(Scripted()).limit == 60


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


async def test_code_that_fails_on_every_event_is_given_up_after_a_few() -> None:
    inner = Scripted(*[KeyError("user")] * 200)
    running, _, _ = resilient(inner, retry=Retry(attempts=5))
    failures = await running.emit(batch(*map(str, range(500))))
    assert len({failure.position for failure in failures}) == 500
    assert len(inner.calls) < 30


async def test_of_two_events_with_one_id_only_the_one_that_failed_is_tried_again() -> None:
    events = [Event(id="same", payload=b"first"), Event(id="same", payload=b"second")]
    payloads: list[list[bytes]] = []

    async def emit(batch: Batch) -> list[Failure] | None:
        payloads.append([event.payload for event in batch])
        return [Failure("same", "busy", position=1)] if len(payloads) == 1 else None

    running, _, _ = resilient(emit)
    assert await running.emit(Batch.from_events(events)) == []
    assert payloads == [[b"first", b"second"], [b"second"]]


async def test_a_pause_that_the_destination_asks_for_after_some_parts_is_respected() -> None:
    class Busy(OneByOne):
        async def _send(self, part: One) -> list[Failure]:
            if part.ids == ["b"] and "b" not in self.sent:
                self.sent.append("b")
                raise RetryableError("busy", retry_after=42)
            return await super()._send(part)

    running, slept, _ = resilient(Busy())
    assert await running.emit(batch("a", "b")) == []
    assert slept == [42]


async def test_an_emitter_whose_batches_are_indivisible_gets_them_whole() -> None:
    class Whole(Scripted):
        indivisible = True

    late: list[Any] = [TimeoutError(), ValueError("bug"), ValueError("bug")]
    inner = Whole(*late)
    running, _, _ = resilient(inner, retry=Retry(attempts=3))
    assert len(await running.emit(batch("a", "b"))) == 2
    assert inner.calls == [["a", "b"]] * 3


async def test_released_calls_say_what_is_confirmed_and_that_the_rest_is_open() -> None:
    inner = OneByOne(hanging="c")
    running, _, _ = resilient(inner)
    emitting = asyncio.ensure_future(running.emit(batch("a", "b", "c", "d")))
    waiting = asyncio.ensure_future(running.emit(batch("e")))
    await until(lambda: sorted(inner.sent) == ["a", "b", "c", "e"])
    await rest()
    running.release_calls()
    assert [(f.event_id, f.position, f.retryable) for f in await emitting] == [("c", 2, True), ("d", 3, True)]
    assert await waiting == []
    (later,) = await running.emit(batch("f"))
    assert (later.event_id, later.retryable) == ("f", True)
    assert "f" not in inner.sent


async def test_calls_that_wait_for_another_try_are_released_too() -> None:
    inner = Scripted([Failure("b", "no", retryable=False), Failure("c", "busy")])
    config = Resilience(inner)
    running = Resilient(inner, config, config.breaker.build(FakeClock()), sleep=forever)
    emitting = asyncio.ensure_future(running.emit(batch("a", "b", "c")))
    behind = asyncio.ensure_future(running.emit(batch("d")))
    await until(lambda: bool(inner.calls))
    await rest()
    running.release_calls()
    assert [(f.event_id, f.retryable) for f in await emitting] == [("b", False), ("c", True)]
    assert [(f.event_id, f.retryable) for f in await behind] == [("d", True)]


async def test_a_call_that_is_cancelled_after_the_release_ends() -> None:
    running, _, _ = resilient(OneByOne(hanging="a"))
    emitting = asyncio.ensure_future(running.emit(batch("a")))
    await rest()
    emitting.cancel()
    running.release_calls()
    with pytest.raises(asyncio.CancelledError):
        await emitting


async def rest() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_after_nonsense_no_event_is_given_up_that_was_in_no_such_call() -> None:
    """The first call had no answer in time, so that the last two events were in no call but that one."""
    inner = Scripted(TimeoutError(), *["nonsense"] * 10)
    emitter, _, _ = resilient(inner)
    ids = [str(number) for number in range(10)]
    failures = await emitter.emit(batch(*ids))
    assert [failure.event_id for failure in failures] == ids[:8]
    assert {event_id for call in inner.calls[1:] for event_id in call} == set(ids)
