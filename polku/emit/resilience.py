"""Make an emitter keep trying: retry with full jitter, circuit breaker, deadline; only what failed is sent again."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import arguments
from polku.batch import Batch
from polku.clock import Clock
from polku.contracts import Emitter, Failure
from polku.delivery import call_hook
from polku.emit.breaker import Breaker, Circuit, State
from polku.emit.retry import Retry
from polku.errors import MisconfiguredError, RejectedError, RetryableError

Sleep = Callable[[float], Awaitable[None]]


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
    While credentials, address or rights are wrong nothing is dropped: attempts go on at the slowest pace and health
    shows the alarm. One call may take `timeout` seconds. The emitter's name, its routing address, stays as it is.
    """

    emitter: Any
    retry: Retry = field(default=Retry(), kw_only=True)
    breaker: Breaker = field(default=Breaker(), kw_only=True)
    timeout: float = field(default=60.0, kw_only=True)

    def __post_init__(self) -> None:
        from polku.emit.adapt import check_emitter

        check_emitter(self.emitter)
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
    ) -> None:
        self._inner = inner
        self._config = config
        self._circuit = circuit
        self._sleep = sleep
        self._draw = draw
        self._troubled = 0
        self._clear = asyncio.Event()
        self._clear.set()
        self._turn = asyncio.Lock()
        self._attempts = self._retries = 0
        self._alarm = ""
        self.concurrency: int = getattr(inner, "concurrency", 1)

    async def start(self) -> None:
        """Start the emitter inside."""
        await call_hook(self._inner, "start")

    async def close(self) -> None:
        """Close the emitter inside."""
        await call_hook(self._inner, "close")

    async def emit(self, batch: Batch) -> list[Failure]:
        """Return the failures that are final; later batches do not start while an earlier one is being retried."""
        await self._clear.wait()
        retryable, final, error = await self._attempt(batch)
        if not retryable:
            return final
        self._troubled += 1
        self._clear.clear()
        try:
            async with self._turn:
                return final + await self._retry(_select(batch, retryable), retryable, error)
        finally:
            self._troubled -= 1
            if not self._troubled:
                self._clear.set()

    def statistics(self) -> ResilienceStatistics:
        """Return a snapshot of the counters."""
        own = getattr(self._inner, "statistics", None)
        snapshot = own() if callable(own) else None
        return ResilienceStatistics(self._attempts, self._retries, self._circuit.state, self._alarm, snapshot)

    async def _retry(self, batch: Batch, failures: list[Failure], error: Exception | None) -> list[Failure]:
        final: list[Failure] = []
        count = 1
        while failures:
            held = isinstance(error, MisconfiguredError)
            if not held and self._config.retry.gives_up(count):
                return final + [failure._replace(retryable=False) for failure in failures]
            await self._sleep(self._pause(count, error))
            self._retries += 1
            failures, finals, error = await self._attempt(batch)
            final += finals
            batch = _select(batch, failures) if finals else batch
            count += 1
        return final

    def _pause(self, count: int, error: Exception | None) -> float:
        retry = self._config.retry
        if isinstance(error, MisconfiguredError):
            return max(retry.limit * (0.5 + self._draw() / 2), self._circuit.wait())
        asked = getattr(error, "retry_after", None) or 0.0
        return max(retry.delay(count, self._draw), asked, self._circuit.wait())

    async def _attempt(self, batch: Batch) -> tuple[list[Failure], list[Failure], Exception | None]:
        """Call the emitter once; return what may be tried again, what may not, and the error if all of it failed."""
        while (wait := self._circuit.wait()) > 0:
            await self._sleep(wait)
        self._attempts += 1
        try:
            async with asyncio.timeout(self._config.timeout):
                result = self._inner.emit(batch)
                failures = list((await result if inspect.isawaitable(result) else result) or ())
        except RejectedError as error:
            self._succeed()
            return [], _all(batch, str(error), retryable=False), None
        except Exception as error:
            return self._fail(batch, error)
        self._succeed()
        return [f for f in failures if f.retryable], [f for f in failures if not f.retryable], None

    def _succeed(self) -> None:
        self._circuit.succeeded()
        self._alarm = ""

    def _fail(self, batch: Batch, error: Exception) -> tuple[list[Failure], list[Failure], Exception]:
        self._circuit.failed()
        if isinstance(error, TimeoutError) and not str(error):
            error = RetryableError(f"no answer within {self._config.timeout:g} s")
        kind = "" if isinstance(error, (RetryableError, MisconfiguredError)) else f"{type(error).__name__}: "
        if isinstance(error, MisconfiguredError) or self._circuit.state is not State.CLOSED:
            self._alarm = f"{kind}{error}"
        return _all(batch, f"{kind}{error}", retryable=True), [], error


def _all(batch: Batch, reason: str, *, retryable: bool) -> list[Failure]:
    return [Failure(event_id, reason, retryable) for event_id in batch.ids]


def _select(batch: Batch, failures: list[Failure]) -> Batch:
    wanted = {failure.event_id for failure in failures}
    if len(failures) == len(batch):
        return batch
    return batch.select([position for position, event_id in enumerate(batch.ids) if event_id in wanted])
