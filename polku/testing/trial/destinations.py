"""Destinations for tests: one that records what it takes, and some that make trouble first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Collector, Emitter, Failure
from polku.emit.adapt import built
from polku.emit.outcome import outcome_of
from polku.emit.resilience import Resilience
from polku.errors import RetryableError
from polku.event.v1.event_pb2 import Event
from polku.testing.trial.outcome import Records
from polku.v1.gateway_pb2 import EventPayload


@dataclass(frozen=True, slots=True)
class Flaky:
    """A destination whose first `fail` calls raise `error`; later ones take everything.

    With `RejectedError("no")` as the error the events of these calls become dead letters; with `MisconfiguredError` or
    `RetryableError`, which it is unless you say otherwise, they are tried again.
    """

    fail: int = 1
    error: Exception = field(default_factory=lambda: RetryableError("the destination is down"), kw_only=True)
    may_recover = True

    def build(self, clock: Clock) -> _Flaky:
        """Make the running destination."""
        return _Flaky(self)


@dataclass(frozen=True, slots=True)
class Refusing:
    """A destination that refuses the events for which `predicate` is true, permanently or (`retryable`) for now."""

    predicate: Callable[[Event], Any]
    reason: str = "refused"
    retryable: bool = False
    may_recover = True

    def emit(self, batch: Batch) -> list[Failure]:
        """Take the others."""
        return [
            Failure(event.id, self.reason, self.retryable, position=position)
            for position, event in enumerate(batch.events)
            if self.predicate(event)
        ]


@dataclass(frozen=True, slots=True)
class Slow:
    """A destination that takes that many (virtual) seconds for each call."""

    seconds: float
    may_recover = True

    async def emit(self, batch: Batch) -> None:
        """Take a batch."""
        await asyncio.sleep(self.seconds)


class _Flaky:
    def __init__(self, config: Flaky) -> None:
        self._config = config
        self._calls = 0

    def emit(self, batch: Batch) -> None:
        self._calls += 1
        if self._calls <= self._config.fail:
            raise self._config.error


class Recorder:
    """Stand in the place of an emitter: keep what it takes, or what `inner`, another emitter, has confirmed.

    How often and how a failed call is tried again is that of the emitter in whose place it stands.
    """

    def __init__(self, name: str, original: object, inner: object | None, records: Records) -> None:
        config = original.emitter if isinstance(original, Resilience) else original
        self._inner = inner
        self._name = name
        self._records = records
        outside = (getattr(one, "may_recover", False) for one in (config, inner))
        self.may_recover = any(outside)
        if isinstance(limit := getattr(inner, "timeout", None), (int, float)):
            self.timeout = limit

    def build(self, clock: Clock) -> Emitter:
        """Make the running emitter."""
        inner = None if self._inner is None else built(self._inner, clock)
        return _Recording(inner, partial(self._records.take, self._name))


class _Recording:
    def __init__(self, inner: Emitter | None, take: Callable[[Sequence[Event]], None]) -> None:
        self._inner = inner
        self._take = take
        self.concurrency = getattr(inner, "concurrency", 1)
        for hook in ("start", "close", "statistics"):
            if callable(getattr(inner, hook, None)):
                setattr(self, hook, getattr(inner, hook))
        if isinstance(inner, Collector):
            self.collecting = inner.collecting
            self.group = inner.group

    def emit(self, batch: Batch) -> Awaitable[list[Failure]]:
        return self._emit(batch, list(EventPayload.FromString(batch.payload).events))

    async def _emit(self, batch: Batch, events: list[Event]) -> list[Failure]:
        failures = [] if self._inner is None else await outcome_of(self._inner, batch)
        places = {failure.position for failure in failures}
        ids = {failure.event_id for failure in failures if failure.position < 0}
        self._take([e for place, e in enumerate(events) if place not in places and e.id not in ids])
        return failures


def in_place_of(name: str, original: object, inner: object | None, records: Records) -> object:
    """Return the emitter that stands in the place of another: its `Resilience` stays, if it has one."""
    if isinstance(inner, Resilience):
        return replace(inner, emitter=Recorder(name, original, inner.emitter, records))
    recorder = Recorder(name, original, inner, records)
    return replace(original, emitter=recorder) if isinstance(original, Resilience) else recorder
