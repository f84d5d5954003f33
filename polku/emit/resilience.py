"""Make an emitter keep trying: retry with full jitter, circuit breaker, deadline; only what failed is sent again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Emitter, Failure
from polku.emit.attempts import is_attempt
from polku.emit.breaker import Breaker, Circuit, State
from polku.emit.call_result import CallResult, by_position, undecided
from polku.emit.giving_up import GivingUp
from polku.emit.outcome import WrongAnswerError, outcome_of
from polku.emit.parts import LateError
from polku.emit.piece import PieceSize
from polku.emit.probe import Probe
from polku.emit.progress import Progress, watching
from polku.emit.remainder import Remainder
from polku.emit.retry import Retry
from polku.emit.unreachable import explained, is_of_settings
from polku.errors import EmitError, MisconfiguredError, RejectedError, RetryableError
from polku.health import Cause
from polku.hooks import call_hook, snapshot_of
from polku.recent_errors import RecentErrors, SeenError
from polku.text import line, named, said, trace
from polku.usercode import as_exception, is_ours

if TYPE_CHECKING:
    from polku.tracing.tracer import Tracer

Sleep = Callable[[float], Awaitable[None]]

_LONGEST = 3600.0
_RELEASED = "the pipeline stopped before the destination confirmed it"
_LIMIT = 60.0  # seconds without progress
_SLACK = 30.0  # by which an emitter's own time limit, whose message says more, is first


class ResilienceStatistics(Struct, frozen=True):
    """Show how an emitter fares; `alarm` is empty unless its destination takes nothing (then: why).

    `next_attempt` is the number of seconds until the next attempt, 0 where none is planned. `errors` are the latest,
    newest first. `cause` is the kind of the alarm.
    """

    attempts: int
    retries: int
    circuit: State
    alarm: str
    emitter: Any
    next_attempt: float = 0.0
    errors: Sequence[SeenError] = ()
    cause: Cause = Cause.UNKNOWN


@dataclass(frozen=True, slots=True)
class Resilience:
    """Wrap any emitter: try again what can be tried again, and hold everything back while nothing can be delivered.

    Events that the destination refuses for good, and those that failed `retry.attempts` times, become dead letters.
    While credentials, address or rights are wrong nothing is dropped: attempts go on at the slowest pace and do not
    count, and health shows the alarm; nor do attempts that fail since this process is short of memory, files or
    threads. A destination's own `retry_after` is respected up to an hour. Its name, the routing address, stays.

    A call is cut off after `timeout` seconds without progress; by default after 60, or 30 more than the emitter's own
    `timeout`. Built-in emitters confirm a batch request by request, and only what is not confirmed is sent again. Of an
    emitter of yours nothing is known before it returns: its whole batch is sent again, in calls of half as many events
    each time one is late, so that a slow destination takes what it can. A method that is not async is not cut off, it
    holds up the event loop; a thread that yours waits for is not ended, and may still deliver what is sent again.

    Where code raises what is no `EmitError` and no `OSError` for a whole batch, `retry.attempts` times, the batch is
    sent in smaller and smaller calls: only the events that fail alone are given up, with the traceback. What a library
    raises may mean that a destination is down: events are given up for it where others are taken meanwhile. A batch for
    which it returns anything else than failures is cut in the same way, after the first call and without pauses. An
    emitter with an attribute `indivisible = True` always gets what is left of a batch whole.

    Order is kept: while a batch is tried again, none starts that came later. Of an emitter with a `concurrency` those
    that had started before it failed may overtake it.
    """

    emitter: Any
    retry: Retry = field(default=Retry(), kw_only=True)
    breaker: Breaker = field(default=Breaker(), kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        from polku.emit.adapt import check_emitter

        check_emitter(self.emitter)
        for option, kind in (("retry", Retry), ("breaker", Breaker)):
            if not isinstance(getattr(self, option), kind):
                fix = f"must be a {kind.__name__}(...)"
                raise checks.fault("Resilience", option, getattr(self, option), fix)
        if self.timeout is not None:
            checks.positive("Resilience", "timeout", self.timeout)

    @property
    def name(self) -> str:
        """The name of the emitter inside."""
        from polku.emit.adapt import emitter_name

        return emitter_name(self.emitter)

    @property
    def writes_to_console(self) -> bool:
        """Whether the emitter inside prints to the program's standard output."""
        return bool(getattr(self.emitter, "writes_to_console", False))

    @property
    def limit(self) -> float:
        """The seconds that a call may take without progress."""
        own = getattr(self.emitter, "timeout", None)
        return self.timeout or max(_LIMIT, own + _SLACK if isinstance(own, (int, float)) else 0.0)

    def check_extras(self) -> None:
        """Raise `PlanError` where the emitter inside needs a package that is not installed."""
        check = getattr(self.emitter, "check_extras", None)
        if callable(check):
            check()

    def build(self, clock: Clock) -> Resilient:
        """Make the running emitter."""
        from polku.emit.adapt import built

        return Resilient(built(self.emitter, clock), self, self.breaker.build(clock))


class Resilient:
    """Call the emitter inside until every event of a batch has a final outcome."""

    def __init__(
        self,
        inner: Emitter,
        config: Resilience,
        circuit: Circuit,
        *,
        sleep: Sleep = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        is_attempt: Callable[[Exception | None], bool] = is_attempt,
    ) -> None:
        self._inner = inner
        self._config = config
        self._circuit = circuit
        self._sleep = sleep
        self._draw = draw
        self._is_attempt = is_attempt
        # Batches pass `_gate` one by one, and none begins before `_clear` says that no earlier one is being retried.
        # Several that have begun may fail: `_turn` has them retry one after the other.
        self._gate, self._turn = asyncio.Lock(), asyncio.Lock()
        self._clear = asyncio.Event()
        self._clear.set()
        self._troubled = 0  # batches that wait for their turn, or have it
        self._attempts = self._retries = 0
        self._alarm, self._cause = "", Cause.UNKNOWN
        self._due = 0.0  # when the next attempt is, by the circuit's clock
        self._errors = RecentErrors()
        self._tasks: set[asyncio.Task[Any]] = set()  # those that emit
        self._is_released = False
        self._limit = config.limit
        # These write one object, or one text, a call: a smaller call would change what is written.
        self._may_cut = not (getattr(inner, "indivisible", False) or hasattr(inner, "collecting"))
        self._size = PieceSize()
        self._probe = Probe()
        self._giving_up = GivingUp(config.retry, self._size, is_attempt, may_cut=self._may_cut)
        self.concurrency: int = getattr(inner, "concurrency", 1)
        self.tracer: Tracer | None = None

    @property
    def inner(self) -> Emitter:
        """The running emitter inside."""
        return self._inner

    async def start(self) -> None:
        """Start the emitter inside."""
        await call_hook(self._inner, "start")

    async def close(self) -> None:
        """Close the emitter inside."""
        await call_hook(self._inner, "close")

    async def emit(self, batch: Batch) -> list[Failure]:
        """Return the failures that are final; later batches do not start while an earlier one is being retried.

        After `release_calls` the events without an outcome are among them, and `retryable`.
        """
        rest = Remainder(batch)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._is_released:
                await self._deliver(rest)
        except asyncio.CancelledError:
            if not self._is_released or task.uncancel():
                raise
        finally:
            self._tasks.discard(task)
        return rest.final + rest.open(_RELEASED)

    def release_calls(self) -> None:
        """Let every call return at once with what is confirmed so far, and take no more batches."""
        self._is_released = True
        for task in self._tasks:
            task.cancel()

    async def _deliver(self, rest: Remainder) -> None:
        error: Exception | None = None
        is_tried = False
        async with self._gate:  # first come, first served
            await self._clear.wait()
            if self._circuit.state is not State.CLOSED:
                # Alone: a half-open circuit lets one through at a time.
                is_tried, error = True, await self._attempt(rest)
        if not is_tried:
            error = await self._attempt(rest)
        if rest.left:
            await self._retry_alone(rest, error)

    def statistics(self) -> ResilienceStatistics:
        """Return a snapshot of the counters."""
        snapshot = snapshot_of(self._inner)
        state, next_attempt = self._circuit.state, max(0.0, self._due - self._circuit.now)
        told = state, self._alarm, snapshot, next_attempt, self._errors.latest(), self._cause
        return ResilienceStatistics(self._attempts, self._retries, *told)

    async def _wait(self, seconds: float) -> None:
        self._due = self._circuit.now + seconds
        await self._sleep(seconds)

    async def _retry_alone(self, rest: Remainder, error: Exception | None) -> None:
        """Retry what is left of a batch, while no later one begins."""
        self._troubled += 1
        self._clear.clear()
        try:
            async with self._turn:
                await self._retry(rest, error)
        finally:
            self._probe.end()
            self._troubled -= 1
            if not self._troubled:
                self._clear.set()

    async def _retry(self, rest: Remainder, error: Exception | None) -> None:
        """Retry until nothing is left; an attempt that makes progress resets the pauses."""
        count = 0
        while rest.left:
            count = 1 if rest.has_moved else count + 1
            rest.has_moved = False
            self._giving_up.give_up(rest, error, self._probe.events(rest))
            if not rest.left:
                return
            if self._giving_up.doubts(error) and await self._probe.send(rest, count, self._try):
                self._succeed()
                self._circuit.close()
                rest.has_moved = True
            await self._wait(self._pause(count, error))
            self._retries += 1
            error = await self._attempt(rest)

    def _pause(self, count: int, error: Exception | None) -> float:
        retry = self._config.retry
        if isinstance(error, WrongAnswerError):
            return 0.0
        if isinstance(error, MisconfiguredError):
            return max(retry.delay_of_settings(self._draw), self._circuit.wait())
        asked = min(getattr(error, "retry_after", None) or 0.0, _LONGEST)
        return max(retry.delay(count, self._draw), asked, self._circuit.wait())

    async def _try(self, batch: Batch) -> bool:
        """Call the emitter inside once; return whether it has confirmed the batch."""
        try:
            async with asyncio.timeout(self._limit):
                with watching(Progress(is_probe=True)):
                    failures = await self._emit(batch)
        except BaseException as error:
            if is_ours(error):
                raise
            return False
        self._giving_up.take(batch)
        return not failures

    async def _attempt(self, rest: Remainder) -> Exception | None:
        """Send what is left once, up to the first piece of which nothing is taken; return why that was."""
        waiting = rest.left
        start, error = 0, None
        rest.passed.clear()
        while start < len(waiting):
            piece = waiting[start : start + self._size.of(len(waiting))]
            progress = Progress(self._probe.events(rest))
            try:
                answer = await self._call(rest.select(piece), progress)
            except asyncio.CancelledError:
                rest.note(piece, progress.outcomes)
                raise
            rest.settle(piece, answer.failures, counts=answer.counts)
            if answer.error is not None:
                rest.stopped_at = piece
                if isinstance(answer.error, WrongAnswerError):
                    rest.answered_wrong.update(piece)
                error = answer.error
                if len(piece) > 1 or not self._probe.works or not self._giving_up.doubts(error):
                    return error
                rest.passed.append(piece[0])  # others are taken: it is this event that fails
            start += len(piece)
        return error

    async def _call(self, batch: Batch, progress: Progress) -> CallResult:
        """Call the emitter inside once, as soon as the circuit lets it through."""
        while (wait := self._circuit.wait()) > 0:
            await self._wait(wait)
        self._attempts += 1
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._limit) as timer:
                progress.limit(timer, self._limit)
                with watching(progress):
                    failures = await self._emit(batch)
        except RejectedError as error:
            self._succeed()
            self._errors.add(said(error))
            if isinstance(error, WrongAnswerError):
                return CallResult(undecided(batch, progress, said(error), retryable=True), error, False)
            return CallResult(undecided(batch, progress, said(error), retryable=False), None, True)
        except BaseException as error:  # an emitter may raise anything: it is tried again, and counted
            if is_ours(error):
                raise
            return self._failed(batch, progress, as_exception(error), began)
        return self._answered(batch, failures, progress.error, began)

    async def _emit(self, batch: Batch) -> list[Failure]:
        if self.tracer is None:
            return await outcome_of(self._inner, batch)
        with self.tracer.attempt(self._config.name, batch) as attempt:
            failures = await outcome_of(self._inner, attempt.batch)
            attempt.settle(len(failures))
        return failures

    def _answered(self, batch: Batch, failures: list[Failure], error: Exception | None, began: float) -> CallResult:
        placed = by_position(batch, failures) if failures else {}
        if len(placed) == len(batch) and all(failure.retryable for failure in placed.values()):
            error = error or RetryableError(failures[0].reason)
            self._note_failure(error)
            return CallResult(placed, error, self._is_attempt(error))
        self._succeed()
        self._giving_up.take(batch)
        if failures:
            self._errors.add(failures[0].reason)
        else:
            self._size.grow(len(batch), asyncio.get_running_loop().time() - began)
        return CallResult(placed, error, self._is_attempt(error))

    def _failed(self, batch: Batch, progress: Progress, error: Exception, began: float) -> CallResult:
        """Take an exception as what became of all events that had no outcome before it."""
        if isinstance(error, TimeoutError) and not line(error):
            error = LateError(f"no answer within {self._limit:g} s")
        if progress.is_confirming:
            self._succeed()
        else:
            self._note_failure(error)
        reason = said(error) if isinstance(error, (RetryableError, MisconfiguredError)) else named(error)
        is_late = isinstance(error, (LateError, TimeoutError)) and len(batch) > 1 and self._may_cut
        if is_late and not progress.is_confirming:
            self._size.shrink(len(batch), asyncio.get_running_loop().time() - began)
        counts = self._is_attempt(error) and not is_late
        detail = trace(error) if self._is_fault_of_code(error) else ""
        return CallResult(undecided(batch, progress, reason, retryable=True, detail=detail), error, counts)

    def _is_fault_of_code(self, error: Exception) -> bool:
        """Return whether a traceback says more than the error does: not where a destination is out of reach."""
        if isinstance(error, EmitError):
            return False
        return not (isinstance(error, OSError) and getattr(self._config.emitter, "may_recover", False))

    def _succeed(self) -> None:
        self._circuit.succeeded()
        self._alarm, self._cause = "", Cause.UNKNOWN

    def _note_failure(self, error: Exception) -> None:
        if not self._probe.works:
            self._circuit.failed()
        known = isinstance(error, (RetryableError, MisconfiguredError))
        text = explained(error, said(error) if known else named(error), self._config.emitter)
        self._errors.add(text)
        if is_of_settings(error) or self._circuit.is_failing:
            self._alarm, self._cause = text, self._cause_of(error)

    def _cause_of(self, error: Exception) -> Cause:
        if is_of_settings(error):
            return Cause.SETTINGS
        if self._config.retry.attempts is None or not self._is_attempt(error):
            return Cause.UNKNOWN
        return Cause.GIVES_UP if isinstance(error, (EmitError, OSError)) else Cause.CODE
