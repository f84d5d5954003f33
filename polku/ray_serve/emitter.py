"""Hand events to a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.attempts import remote_trace
from polku.emit.progress import current
from polku.errors import EmitError, MisconfiguredError, RejectedError
from polku.event.v1.event_pb2 import Event
from polku.ray_serve.calls import Calls
from polku.ray_serve.deployment import Deployment, check, check_serve
from polku.text import named, said, trace


class ServeStatistics(NamedTuple):
    """Count calls of the deployment, those that failed, the waits while it was full, and replicas that died."""

    calls: int
    failed: int
    waits: int
    deaths: int


@dataclass(frozen=True, slots=True)
class ServeEmitter:
    """Call a Ray Serve application once for each event; what it returns confirms the event.

    `app` is the application's name, `deployment` one of its deployments, by default its ingress, and `method` what is
    called of it, with `request(event)` or with the `Event` itself. Up to `max_in_flight` events are on their way at
    once, each for up to `timeout` seconds; replicas that use `@serve.batch` get them together.

    A deployment that is full (`max_queued_requests`) is called again after a pause. An event whose replica dies goes to
    another one; that of which three die becomes a dead letter, as does one on which the deployment raises, unless that
    is an `EmitError` which says otherwise. An application that is not there holds everything, with an alarm, until it
    is. Needs a pipeline in the same Ray, and Ray Serve: `pip install 'polku[serve]'`.
    """

    app: str
    deployment: str = field(default="", kw_only=True)
    method: str = field(default="__call__", kw_only=True)
    request: Callable[[Event], Any] | None = field(default=None, kw_only=True)
    name: str = field(default="serve", kw_only=True)
    max_in_flight: int = field(default=64, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        check("ServeEmitter", self.called)

    @property
    def called(self) -> Deployment:
        """What is called."""
        return Deployment(self.app, self.deployment, self.method, self.request, self.timeout, self.max_in_flight)

    def check_extras(self) -> None:
        """Raise `PlanError` where Ray Serve is not installed."""
        check_serve(f"ServeEmitter({self.app})")

    def build(self, clock: Clock) -> _Caller:
        """Make the running emitter."""
        return _Caller(self.called)


class _Caller:
    def __init__(self, called: Deployment) -> None:
        self._called = called
        self._calls: Calls | None = None

    def start(self) -> None:
        self._calls = Calls(self._called)

    def close(self) -> None:
        if self._calls is not None:
            self._calls.close()

    def statistics(self) -> ServeStatistics:
        return statistics(self._calls)

    async def emit(self, batch: Batch) -> list[Failure]:
        """Make the calls; each event that has an outcome keeps it where this is cut off."""
        assert self._calls is not None
        await self._calls.find()  # where there is nothing to call, no event is at fault
        delivery = _Delivery(self._calls, self._called)
        tasks = [asyncio.ensure_future(delivery.send(event, at)) for at, event in enumerate(batch.events)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return delivery.failures


class _Delivery:
    """The events of one batch, on their way."""

    def __init__(self, calls: Calls, called: Deployment) -> None:
        self._calls = calls
        self._called = called
        self._room = asyncio.Semaphore(called.max_in_flight)
        self._stopped: MisconfiguredError | None = None
        self._progress = current()
        self.failures: list[Failure] = []

    async def send(self, event: Event, position: int) -> None:
        """Make the call for an event, and note what became of it."""
        async with self._room:
            failure = await self._send(event, position)
        self._progress.step(self._called.timeout)
        if failure is not None:
            self.failures.append(failure)
        if failure is None or not failure.retryable:
            self._progress.settle([position], [] if failure is None else [failure])

    async def _send(self, event: Event, position: int) -> Failure | None:
        if self._stopped is not None:
            return Failure(event.id, said(self._stopped), attempts=0, position=position)
        try:
            await self._calls.call(event)
        except RejectedError as error:
            return Failure(event.id, said(error), retryable=False, position=position)
        except EmitError as error:
            self._progress.stopped(error)
            if isinstance(error, MisconfiguredError):
                self._stopped = error  # it is not there: the others need not try
            return Failure(event.id, said(error), position=position)
        except Exception as error:
            reason, detail = f"{self._called}: {named(error)}", remote_trace(error.__cause__) or trace(error)
            return Failure(event.id, reason, retryable=False, position=position, detail=detail)
        return None


def statistics(calls: Calls | None) -> ServeStatistics:
    """Return the counts of calls; none were made before the start."""
    return ServeStatistics(0, 0, 0, 0) if calls is None else ServeStatistics(*calls.counts)
