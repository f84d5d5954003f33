"""Make an emitter keep trying: retry with full jitter, circuit breaker, deadline; only what failed is sent again."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import arguments
from polku.batch import Batch
from polku.clock import Clock
from polku.contracts import Emitter, Failure
from polku.delivery import call_hook
from polku.emit.away import counts
from polku.emit.breaker import Breaker, Circuit, State
from polku.emit.outcome import read_outcome
from polku.emit.parts import fail
from polku.emit.retry import Retry
from polku.errors import MisconfiguredError, RejectedError, RetryableError

Sleep = Callable[[float], Awaitable[None]]

_LONGEST = 3600.0


class ResilienceStatistics(NamedTuple):
    """Show how an emitter fares; `alarm` is empty unless its destination takes nothing (then: why)."""

    attempts: int
    retries: int
    circuit: State
    alarm: str
    emitter: Any


@dataclass(frozen=True, slots=True)
class Resilience:
    """Wrap any emitter: try again what can be tried again, and hold everything back while nothing can be delivered.

    Events that the destination refuses for good, and those that failed `retry.attempts` times, become dead letters.
    While credentials, address or rights are wrong nothing is dropped: attempts go on at the slowest pace and do not
    count, and health shows the alarm. Nor do attempts count for which this process had no memory, files or threads. A
    destination's own `retry_after` is respected up to an hour. One call may take `timeout` seconds. The emitter's name,
    its routing address, stays as it is.

    Order is kept: while a batch is tried again, none starts that came later. Of an emitter with a `concurrency` those
    that had started before it failed may overtake it.
    """

    emitter: Any
    retry: Retry = field(default=Retry(), kw_only=True)
    breaker: Breaker = field(default=Breaker(), kw_only=True)
    timeout: float = field(default=60.0, kw_only=True)

    def __post_init__(self) -> None:
        from polku.emit.adapt import check_emitter

        check_emitter(self.emitter)
        for option, kind in (("retry", Retry), ("breaker", Breaker)):
            if not isinstance(getattr(self, option), kind):
                fix = f"must be a {kind.__name__}(...)"
                raise arguments.fault("Resilience", option, getattr(self, option), fix)
        arguments.positive("Resilience", "timeout", self.timeout)

    @property
    def name(self) -> str:
        """The name of the emitter inside."""
        from polku.emit.adapt import emitter_name

        return emitter_name(self.emitter)

    @property
    def writes_to_console(self) -> bool:
        """Whether the emitter inside prints to the program's standard output."""
        return bool(getattr(self.emitter, "writes_to_console", False))

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
        counts: Callable[[Exception | None], bool] = counts,
    ) -> None:
        self._inner = inner
        self._config = config
        self._circuit = circuit
        self._sleep = sleep
        self._draw = draw
        self._counts = counts
        self._gate = asyncio.Lock()
        self._troubled = 0
        self._clear = asyncio.Event()
        self._clear.set()
        self._turn = asyncio.Lock()
        self._attempts = self._retries = 0
        self._alarm = ""
        self.concurrency: int = getattr(inner, "concurrency", 1)

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
        """Return the failures that are final; later batches do not start while an earlier one is being retried."""
        trial: _Attempt | None = None
        async with self._gate:  # first come, first served
            await self._clear.wait()
            if self._circuit.state is not State.CLOSED:
                trial = await self._attempt(batch)  # alone: a half-open circuit lets one through at a time
        attempt = trial or await self._attempt(batch)
        if not attempt.retryable:
            return attempt.final
        self._troubled += 1
        self._clear.clear()
        try:
            async with self._turn:
                return await self._retry(batch, attempt)
        finally:
            self._troubled -= 1
            if not self._troubled:
                self._clear.set()

    def statistics(self) -> ResilienceStatistics:
        """Return a snapshot of the counters."""
        own = getattr(self._inner, "statistics", None)
        snapshot = own() if callable(own) else None
        return ResilienceStatistics(self._attempts, self._retries, self._circuit.state, self._alarm, snapshot)

    async def _retry(self, batch: Batch, attempt: _Attempt) -> list[Failure]:
        final = attempt.final
        counted = 0
        for tried in itertools.count(1):
            if not attempt.retryable:
                return final
            batch = _select(batch, attempt.retryable)
            counted += self._counts(attempt.error)
            if self._config.retry.gives_up(counted):
                return final + [f._replace(retryable=False, attempts=tried) for f in attempt.retryable]
            await self._sleep(self._pause(tried, attempt.error))
            self._retries += 1
            attempt = await self._attempt(batch)
            final = final + [failure._replace(attempts=tried + 1) for failure in attempt.final]
        raise AssertionError("unreachable")

    def _pause(self, count: int, error: Exception | None) -> float:
        retry = self._config.retry
        if isinstance(error, MisconfiguredError):
            return max(retry.limit * (0.5 + self._draw() / 2), self._circuit.wait())
        asked = min(getattr(error, "retry_after", None) or 0.0, _LONGEST)
        return max(retry.delay(count, self._draw), asked, self._circuit.wait())

    async def _attempt(self, batch: Batch) -> _Attempt:
        """Call the emitter inside once, as soon as the circuit lets it through."""
        while (wait := self._circuit.wait()) > 0:
            await self._sleep(wait)
        self._attempts += 1
        try:
            async with asyncio.timeout(self._config.timeout):
                failures = await read_outcome(self._inner.emit(batch), batch)
        except RejectedError as error:
            self._succeed()
            return _Attempt([], fail(batch.ids, error, retryable=False), None)
        except Exception as error:  # an emitter may raise anything: it is tried again, and counted
            return self._fail(batch, error)
        retryable = [failure for failure in failures if failure.retryable]
        if len({failure.event_id for failure in retryable}) == len(batch):
            return self._fail(batch, RetryableError(retryable[0].reason))
        self._succeed()
        return _Attempt(retryable, [failure for failure in failures if not failure.retryable], None)

    def _succeed(self) -> None:
        self._circuit.succeeded()
        self._alarm = ""

    def _fail(self, batch: Batch, error: Exception) -> _Attempt:
        self._circuit.failed()
        if isinstance(error, TimeoutError) and not str(error):
            error = RetryableError(f"no answer within {self._config.timeout:g} s")
        kind = "" if isinstance(error, (RetryableError, MisconfiguredError)) else f"{type(error).__name__}: "
        if isinstance(error, MisconfiguredError) or self._circuit.state is not State.CLOSED:
            self._alarm = f"{kind}{error}"
        return _Attempt(fail(batch.ids, f"{kind}{error}", retryable=True), [], error)


class _Attempt(NamedTuple):
    """What one call achieved: failures that may be tried again, those that may not, and why if nothing was taken."""

    retryable: list[Failure]
    final: list[Failure]
    error: Exception | None


def _select(batch: Batch, failures: list[Failure]) -> Batch:
    wanted = {failure.event_id for failure in failures}
    positions = [position for position, event_id in enumerate(batch.ids) if event_id in wanted]
    return batch if len(positions) == len(batch) else batch.select(positions)
