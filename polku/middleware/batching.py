"""Call a model with events of many batches at once: how much one call gets, and how long it waits for that."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.contracts import Overlapping
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration

_IN_FLIGHT = 4  # calls of an async model


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Batching(Configuration):
    """How the calls of a model are filled: `.middleware(model, batching=Batching(max_events=32))`.

    A call leaves with `max_events` events or `max_bytes` bytes of them (serialised, one event at least), or when its
    first event has waited for `max_wait` seconds. Up to `in_flight` calls run at once: 1 for a sync model, 4 for an
    async one, where nothing else is chosen; what comes while all of them are busy fills the next one. An async call has
    `timeout` seconds; a sync one runs in a thread, and cannot be ended.

    A call that raises `RetryableError` is made again, with the same events, after the pause that the error names, or
    0.1 s doubling to 5 s, for up to `retry_for` seconds.

    With `warm_up`, an event or several, the model is called once with `max_events` of them before it gets any other.
    """

    max_events: int = 64
    max_bytes: int = 4 * 1024 * 1024
    max_wait: float = 0.02
    in_flight: int | None = None
    timeout: float = 30.0
    retry_for: float = 60.0
    warm_up: Event | Sequence[Event] = field(default=())

    def __post_init__(self) -> None:
        checks.whole("Batching", "max_events", self.max_events)
        checks.whole("Batching", "max_bytes", self.max_bytes)
        if self.in_flight is not None:
            checks.whole("Batching", "in_flight", self.in_flight)
        for name in ("max_wait", "retry_for"):
            if getattr(self, name) != 0:
                checks.positive("Batching", name, getattr(self, name))
        checks.positive("Batching", "timeout", self.timeout)
        events = (self.warm_up,) if isinstance(self.warm_up, Event) else self.warm_up
        if not isinstance(events, (list, tuple)) or not all(isinstance(event, Event) for event in events):
            raise checks.fault("Batching", "warm_up", self.warm_up, "must be an Event, or a list of them")
        object.__setattr__(self, "warm_up", tuple(events))

    def calls(self, *, is_async: bool) -> int:
        """Return how many calls run at once."""
        return self.in_flight or (_IN_FLIGHT if is_async else 1)


@dataclass(frozen=True, slots=True, repr=False)
class Batched(Configuration):
    """A model with its `Batching`, as middleware.

    The model is a function of the list of events, sync or async, or an object with `predict(events)`; a class of such
    objects, or a `functools.partial` of one, is called where the model runs, once in each process. It returns nothing
    where it changed the events in place, or a result for each event: None (it goes on as it is now), an Event (that one
    goes on), a mapping of strings (which is merged over its metadata), or an exception (it becomes a dead letter). What
    it raises costs only the events on which it raises: it is called again with halves of them.

    Its `start()`, where it has one, loads it, its `warm_up()` is called next, `close()` at the end. A sync model is
    made, loaded and called in threads of its own; with one call in flight that is always the same thread.
    """

    model: Any
    batching: Batching = field(default_factory=Batching)

    holds = True
    overlaps = True

    def __post_init__(self) -> None:
        if not isinstance(self.batching, Batching):
            raise checks.fault("middleware", "batching", self.batching, "must be a Batching(...)")
        called = made_by(self.model) or self.model
        predict = getattr(called, "predict", None) or (called.__call__ if inspect.isclass(called) else called)
        if inspect.isclass(called) and not callable(getattr(called, "predict", None)) and not _is_called(called):
            raise _no_model(called)
        if not callable(predict):
            raise _no_model(called)
        if not inspect.isclass(called) and not checks.takes_one(predict):
            raise PlanError(f"{checks.label(called)} must take one argument: the list of events", where="middleware")
        checks.no_generator("middleware", "model", predict)

    @property
    def name(self) -> str:
        """What the model is called: its own `name`, or that of its class or function."""
        name = getattr(self.model, "name", None)
        return name if isinstance(name, str) and name else checks.label(self.model)

    def build(self, clock: Clock) -> Overlapping:
        """Make what runs; the model itself is made when it starts."""
        from polku.middleware.micro_batches import MicroBatches
        from polku.middleware.model import ModelCalls

        return MicroBatches(self.name, ModelCalls(self, clock), self.batching, clock)


def made_by(model: object) -> type | None:
    """Return the class whose object the model is to be, made where it runs; None where the model is one already."""
    while isinstance(model, functools.partial):
        model = model.func
    return model if inspect.isclass(model) else None


def _is_called(model: type) -> bool:
    return any("__call__" in base.__dict__ for base in model.__mro__)


def _no_model(model: object) -> PlanError:
    return PlanError(
        f"{checks.shorten(model)} is no model; pass a function of the list of events, or a class or object with "
        "predict(events)",
        where="middleware",
    )
