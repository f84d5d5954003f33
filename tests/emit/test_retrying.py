"""What failed is tried again: which events, after which pause, how often, and in which order."""

from __future__ import annotations

import asyncio
import errno

import pytest
import ray.exceptions

from polku import (
    Batch,
    Breaker,
    Event,
    Failure,
    MisconfiguredError,
    RejectedError,
    Resilience,
    Retry,
    RetryableError,
)
from polku.clock import SystemClock
from polku.emit.adapt import as_emitter
from polku.emit.resilience import Resilient
from tests.emit.resilience import Scripted, batch, forever, resilient, until
from tests.support.clock import FakeClock


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


async def test_later_batches_wait_while_an_earlier_one_is_tried_again() -> None:
    inner = Scripted(RetryableError("down"), RetryableError("down"))
    running, _, _ = resilient(inner)
    first = asyncio.ensure_future(running.emit(batch("first")))
    await until(lambda: bool(inner.calls))
    await asyncio.gather(first, running.emit(batch("second")))
    assert inner.calls == [["first"], ["first"], ["first"], ["second"]]


async def test_batches_that_waited_start_in_the_order_in_which_they_came() -> None:
    inner = Scripted(RetryableError("down"))
    inner.concurrency = 8
    running, _, _ = resilient(inner)
    await asyncio.gather(*(running.emit(batch(name)) for name in "abcdef"))
    assert [ids for (ids,) in inner.calls[1:]] == list("abcdef")


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
    emitter = Unreachable(error, failures=12)
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


async def test_the_destination_s_own_pause_has_a_bound() -> None:
    running, slept, _ = resilient(Scripted(RetryableError("busy", retry_after=10.0**9)))
    await running.emit(batch("a"))
    assert slept == [3600]


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


async def test_of_two_events_with_one_id_only_the_one_that_failed_is_tried_again() -> None:
    events = [Event(id="same", payload=b"first"), Event(id="same", payload=b"second")]
    payloads: list[list[bytes]] = []

    async def emit(batch: Batch) -> list[Failure] | None:
        payloads.append([event.payload for event in batch])
        return [Failure("same", "busy", position=1)] if len(payloads) == 1 else None

    running, _, _ = resilient(emit)
    assert await running.emit(Batch.from_events(events)) == []
    assert payloads == [[b"first", b"second"], [b"second"]]
