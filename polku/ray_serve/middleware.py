"""Have a deployment of Ray Serve answer for events, in the middle of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from polku import checks
from polku.clock import Clock, SystemClock
from polku.contracts import Overlapping
from polku.errors import MisconfiguredError, PlanError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.middleware.batching import Batched, Batching
from polku.middleware.configuration import Configuration
from polku.middleware.micro_batches import MicroBatches
from polku.middleware.model import ModelCalls
from polku.ray_serve.calls import Calls
from polku.ray_serve.deployment import Deployment, check, check_serve
from polku.ray_serve.emitter import ServeStatistics, statistics


@dataclass(frozen=True, slots=True, repr=False)
class ServeMiddleware(Configuration):
    """Call a Ray Serve application once for each event, and continue with what it answers, under the same id.

    `app`, `deployment`, `method` and `request` are those of a `ServeEmitter`. `answer(event, result)` says what the
    result means; without it the result itself does: None (the event continues as it is), a mapping of strings (which
    is merged over its metadata), or an `Event` (that one continues instead, with the id of the one that was sent).

    Up to `max_in_flight` events are with the application at once, and they continue in their order. One that is full,
    does not answer within `timeout` seconds or is not there is called again for `retry_for` seconds; then, or where it
    raises, or three of its replicas died of it, the event becomes a dead letter. Needs a pipeline in the same Ray, and
    Ray Serve: `pip install 'polku[serve]'`. Tests in virtual time put a function in its place, by its name.
    """

    app: str
    deployment: str = field(default="", kw_only=True)
    method: str = field(default="__call__", kw_only=True)
    request: Callable[[Event], Any] | None = field(default=None, kw_only=True)
    answer: Callable[[Event, Any], Any] | None = field(default=None, kw_only=True)
    max_in_flight: int = field(default=64, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    retry_for: float = field(default=60.0, kw_only=True)

    holds = True
    overlaps = True

    def __post_init__(self) -> None:
        check("ServeMiddleware", self.called)
        if self.answer is not None and (not callable(self.answer) or checks.is_async(self.answer)):
            fix = "must be a function of the event and the result, and not async"
            raise checks.fault("ServeMiddleware", "answer", self.answer, fix)
        if self.retry_for != 0:
            checks.positive("ServeMiddleware", "retry_for", self.retry_for)

    @property
    def called(self) -> Deployment:
        """What is called."""
        return Deployment(self.app, self.deployment, self.method, self.request, self.timeout, self.max_in_flight)

    def check_extras(self) -> None:
        """Raise `PlanError` where Ray Serve is not installed."""
        check_serve(f"ServeMiddleware({self.app})")

    def build(self, clock: Clock) -> Overlapping:
        """Make what runs."""
        batching = Batching(
            max_events=1,
            max_wait=0.0,
            in_flight=self.max_in_flight,
            timeout=4 * self.timeout + 1,  # the calls have limits of their own, whose messages say more
            retry_for=self.retry_for,
        )
        calls = ModelCalls(Batched(_Asking(self, is_real=isinstance(clock, SystemClock)), batching), clock)
        calls.name = f"ServeMiddleware({self.app})"
        return MicroBatches(calls.name, calls, batching, clock)


class _Asking:
    """Ask for one event at a time, as a model that is called with one."""

    def __init__(self, config: ServeMiddleware, *, is_real: bool) -> None:
        self._config = config
        self._is_real = is_real
        self._calls: Calls | None = None

    async def start(self) -> None:
        """Look the application up; one that is not there yet is no reason not to start."""
        if not self._is_real:
            fix = "no Ray Serve runs in virtual time; have a function stand in its place: run(…, replace={…})"
            raise PlanError(fix, where=f"ServeMiddleware({self._config.app})")
        self._config.check_extras()
        self._calls = Calls(self._config.called)

    def close(self) -> None:
        """Let the thread end."""
        if self._calls is not None:
            self._calls.close()

    def statistics(self) -> ServeStatistics:
        """Return a snapshot."""
        return statistics(self._calls)

    async def predict(self, events: list[Event]) -> list[Any]:
        """Return what becomes of the one event."""
        (event,) = events
        assert self._calls is not None
        try:
            result = await self._calls.call(event)
        except MisconfiguredError as error:  # it may be deployed any moment
            raise RetryableError(error.message, retry_after=error.retry_after) from None
        if self._config.answer is not None:
            result = self._config.answer(event, result)
        if isinstance(result, Event):
            result.id = event.id
        return [result]
