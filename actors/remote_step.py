"""Have events worked on by Ray tasks, wherever in the cluster there is room, in the middle of a pipeline."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polku import checks
from polku.aio.threads import DaemonThreads
from polku.batch.frames import join_frames, split_frames
from polku.clock import Clock, SystemClock
from polku.contracts import Overlapping
from polku.errors import RetryableError, UserCodeError
from polku.event.v1.event_pb2 import Event
from polku.middleware.batching import Batched, Batching
from polku.middleware.configuration import Configuration
from polku.middleware.micro_batches import MicroBatches
from polku.middleware.model import ModelCalls
from polku.text import named, said
from polku.usercode import as_exception


@dataclass(frozen=True, slots=True, repr=False)
class RemoteStep(Configuration):
    """Call `function(event)` in Ray tasks: it changes the event in place and returns nothing, or returns an Event.

    A task gets up to `max_events` events, those that are there, and needs `num_cpus`, `num_gpus` and custom
    `resources`; up to `max_in_flight` run at once, and the events continue in their order. An event on which the
    function raises becomes a dead letter. A task whose worker dies is run again, `retries` times at most, and then in
    parts, until the event that ends workers is known; one whose node or Ray does not answer is run again for
    `retry_for` seconds. A task may take `timeout` seconds, the wait for its resources included.

    Events may be worked on more than once, where a worker died. Where no Ray runs, as on the inline runtime and in
    tests, that many threads of this process do the work, and the resources say nothing.
    """

    function: Callable[[Event], Event | None]
    num_cpus: float = field(default=1.0, kw_only=True)
    num_gpus: float = field(default=0.0, kw_only=True)
    resources: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    max_in_flight: int = field(default=8, kw_only=True)
    max_events: int = field(default=64, kw_only=True)
    timeout: float = field(default=300.0, kw_only=True)
    retries: int = field(default=1, kw_only=True)
    retry_for: float = field(default=60.0, kw_only=True)

    holds = True
    overlaps = True

    def __post_init__(self) -> None:
        checks.function("RemoteStep", "function", self.function)
        checks.no_generator("RemoteStep", "function", self.function)
        if checks.is_async(self.function):
            raise checks.fault(
                "RemoteStep", "function", self.function, "must not be async; what awaits needs no task: use a Transform"
            )
        for name in ("max_in_flight", "max_events"):
            checks.whole("RemoteStep", name, getattr(self, name))
        for name in ("num_cpus", "num_gpus", "retries", "retry_for"):
            if getattr(self, name) != 0:
                checks.positive("RemoteStep", name, getattr(self, name))
        checks.positive("RemoteStep", "timeout", self.timeout)

    def build(self, clock: Clock) -> Overlapping:
        """Make what runs."""
        batching = Batching(
            max_events=self.max_events,
            max_wait=0.0,
            in_flight=self.max_in_flight,
            timeout=self.timeout,
            retry_for=self.retry_for,
        )
        name = f"RemoteStep({checks.label(self.function)})"
        calls = ModelCalls(Batched(_Tasks(self, is_real=isinstance(clock, SystemClock)), batching), clock)
        calls.name = name
        return MicroBatches(name, calls, batching, clock)


class _Tasks:
    """Run a task for each call, in Ray where there is one and time `is_real`."""

    def __init__(self, config: RemoteStep, *, is_real: bool) -> None:
        self._config = config
        self._is_real = is_real
        self._task: Any = None
        self._threads: DaemonThreads | None = None

    async def start(self) -> None:
        """Make the task, once for all calls: Ray sends its function to each worker once."""
        config = self._config
        if not (self._is_real and _ray_runs()):
            self._threads = DaemonThreads("polku-step", config.max_in_flight)
            return
        import ray

        def call(payload: bytes) -> bytes:
            return work(config.function, payload)

        self._task = ray.remote(
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            resources=dict(config.resources),
            max_retries=config.retries,
        )(call)

    async def predict(self, events: list[Event]) -> list[Event | Exception]:
        """Return what the function made of each event."""
        payload = join_frames([event.SerializeToString() for event in events])
        if self._threads is not None:
            answer = await self._threads.run(work, self._config.function, payload)
        else:
            answer = await self._remotely(payload)
        results: list[bytes | tuple[str, bytes]] = pickle.loads(answer)
        return [Event.FromString(one) if isinstance(one, bytes) else _raised(*one) for one in results]

    def close(self) -> None:
        """Let the threads end."""
        if self._threads is not None:
            self._threads.shutdown()

    async def _remotely(self, payload: bytes) -> bytes:
        import ray
        from ray import exceptions

        task = self._task.remote(payload)
        try:
            answer: bytes = await task
        except asyncio.CancelledError:
            ray.cancel(task, force=True)
            raise
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
            raise UserCodeError(f"its worker died: {said(error)}") from None
        except exceptions.RayTaskError:
            raise
        except exceptions.RayError as error:
            raise RetryableError(f"Ray does not run the task: {named(error)}") from None
        return answer


def work(function: Callable[[Event], Event | None], payload: bytes) -> bytes:
    """Call the function for each of the events; return a pickled list of events as bytes, or what was raised."""
    results: list[bytes | tuple[str, bytes]] = []
    for frame in split_frames(payload):
        event = Event.FromString(frame)
        try:
            made = function(event)
            if made is not None and not isinstance(made, Event):
                raise TypeError(f"returned {checks.shorten(made)}, expected an Event, or None")
            results.append((event if made is None else made).SerializeToString())
        except BaseException as error:
            results.append((named(error), _pickled(as_exception(error))))
    return pickle.dumps(results)


def _pickled(error: Exception) -> bytes:
    """Return an exception as bytes; none where it cannot be pickled."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return b""
    return data


def _raised(text: str, data: bytes) -> Exception:
    """Return what the function raised; what cannot be loaded here is told by its text."""
    try:
        error = pickle.loads(data) if data else UserCodeError(text)
    except Exception:
        error = UserCodeError(text)
    return error if isinstance(error, Exception) else UserCodeError(text)


def _ray_runs() -> bool:
    """Return whether this process is connected to a Ray."""
    if not checks.has_ray():
        return False
    import ray

    return bool(ray.is_initialized())
