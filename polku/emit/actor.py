"""Deliver batches to an actor of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.attempts import is_attempt_of_code, is_sure_of_code
from polku.emit.outcome import WrongAnswerError
from polku.emit.parts import BatchPart, FaultyPartError, send_parts
from polku.emit.suspects import Suspects
from polku.errors import EmitError, MisconfiguredError, PlanError, RetryableError
from polku.text import named, said


class ActorStatistics(NamedTuple):
    """Count calls of the actor, and those that did not return."""

    calls: int
    failed: int


@dataclass(frozen=True, slots=True)
class ActorEmitter:
    """Call `method` of a Ray actor with each `Batch`; its return is the confirmation.

    The method iterates over the batch's events and returns None, or the `Failure`s (or just the ids) of the events
    that it did not take. An exception fails the whole batch, unless it is an `EmitError` that says otherwise. After an
    `OSError` all of it is tried again; after any other one in halves: an event for which it raises alone is passed, and
    becomes a dead letter after five attempts between which others were taken, with the traceback; a method that raises
    for all is tried again. An actor that does not answer, or is being restarted, is waited for; one that Ray will not
    restart holds everything, with an alarm. A call may take `timeout` seconds.
    """

    handle: Any
    method: str
    name: str = field(default="actor", kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        checks.positive("ActorEmitter", "timeout", self.timeout)
        method = getattr(self.handle, self.method, None) if isinstance(self.method, str) else None
        if not callable(getattr(method, "remote", None)):
            raise PlanError(f"method={self.method!r} is no method of the actor {self.handle!r}", where="ActorEmitter")

    def build(self, clock: Clock) -> _Caller:
        """Make the running emitter."""
        return _Caller(self)


class _Caller:
    def __init__(self, config: ActorEmitter) -> None:
        self._config = config
        self._method = getattr(config.handle, config.method)
        self._calls = self._failed = 0
        self._suspects = Suspects()

    async def emit(self, batch: Batch) -> list[Failure]:
        return await send_parts([BatchPart(batch, range(len(batch)))], self._try)

    async def _try(self, part: BatchPart) -> list[Failure]:
        return await self._suspects.send(part, self._send, _is_sure)

    async def _send(self, part: BatchPart) -> list[Failure]:
        self._calls += 1
        self._check_ray()
        try:
            async with asyncio.timeout(self._config.timeout):
                result = await self._method.remote(part.batch)
        except Exception as error:
            self._failed += 1
            raise self._explain(error) from error
        return [] if result is None else _failures(result)

    def statistics(self) -> ActorStatistics:
        return ActorStatistics(self._calls, self._failed)

    def _check_ray(self) -> None:
        """Raise where the application has shut Ray down: a call of the actor would start another one."""
        import ray

        if not ray.is_initialized():
            self._failed += 1
            raise MisconfiguredError("the application has shut Ray down, and the actor with it")

    def _explain(self, error: Exception) -> Exception:
        import ray.exceptions

        cause = getattr(error, "cause", error)
        if isinstance(cause, EmitError):
            return cause
        if isinstance(error, ray.exceptions.RayTaskError):
            kind = FaultyPartError if is_attempt_of_code(cause) else RetryableError
            return kind(f"{self._config.method} raised {named(cause)}")
        if isinstance(error, ray.exceptions.ActorDiedError):
            return MisconfiguredError(f"the actor is dead: {said(error)}")
        if isinstance(error, ray.exceptions.RayActorError):
            return RetryableError(f"the actor does not answer: {said(error)}")
        if isinstance(error, TimeoutError):
            return RetryableError(f"{self._config.method} did not return within {self._config.timeout:g} s")
        return error


def _is_sure(error: FaultyPartError) -> bool:
    """Return whether the actor's code is at fault: what a library raises may mean that what the actor needs is down."""
    cause = getattr(error.__cause__, "cause", None)
    return isinstance(cause, Exception) and is_sure_of_code(cause)


def _failures(result: object) -> list[Failure]:
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
        raise WrongAnswerError(f"the method returned {result!r}; return None, or the failures or their ids")
    return [f if isinstance(f, Failure) else Failure(str(f), "the actor did not take it") for f in result]
