"""Take what users write as emitters: built-in configurations, classes with `emit(batch)`, plain functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from polku.batch.batch import Batch
from polku.checks import label, one_way, shorten, takes_one
from polku.clock import Clock
from polku.contracts import Emitter, Failure
from polku.errors import PlanError

ALLOWED = "pass a function of a batch, an object with emit(batch), or a built-in emitter such as StdoutEmitter()"


def check_emitter(component: object) -> None:
    """Raise `PlanError` for something that is no emitter, naming what came and what is allowed."""
    if inspect.isclass(component):
        name = component.__name__
        raise PlanError(f"{name} is a class; pass an object of it: .emitter({name}(...))", where="emitter")
    one_way(component, "emitter", "emit")
    emit = getattr(component, "emit", None)
    if not callable(emit):
        if callable(getattr(component, "build", None)):
            return
        emit = component
    if not callable(emit) or hasattr(component, "process") or hasattr(component, "ingest"):
        raise PlanError(f"{shorten(component)} is no emitter; {ALLOWED}", where="emitter")
    if not takes_one(emit):
        raise PlanError(f"{shorten(component)} must take one argument, the batch", where="emitter")
    if inspect.isasyncgenfunction(emit):
        raise PlanError(f"{shorten(component)} must return its failures, not yield them", where="emitter")
    concurrency = getattr(component, "concurrency", 1)
    if not isinstance(concurrency, int) or concurrency < 1:
        reason = f"concurrency={concurrency!r} must be a whole number of at least 1"
        raise PlanError(f"{shorten(component)}: {reason}", where="emitter")


def emitter_name(component: object) -> str:
    """Return the routing address: the emitter's `name`, its function's, or its class's without "Emitter"."""
    name = getattr(component, "name", None)
    if isinstance(name, str) and name:
        return name
    if not callable(getattr(component, "emit", None)):
        function = label(component)
        if function != type(component).__name__:
            return "function" if function == "lambda" else function
    stem = type(component).__name__.removesuffix("Emitter") or type(component).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()


def as_emitter(component: Any, clock: Clock) -> Emitter:
    """Make the running emitter of a component, with the default resilience unless it has its own."""
    from polku.emit.attempts import is_attempt_of_code
    from polku.emit.breaker import Breaker
    from polku.emit.resilience import Resilience, Resilient
    from polku.emit.retry import Retry

    if isinstance(component, Resilience):
        return component.build(clock)
    # What is outside of this process comes back some day. Code in it that fails five times will go on failing.
    if getattr(component, "may_recover", False):
        return Resilience(component).build(clock)
    own = Resilience(component, retry=Retry(attempts=5, limit=1.0), breaker=Breaker(open_for=1.0))
    return Resilient(built(component, clock), own, own.breaker.build(clock), is_attempt=is_attempt_of_code)


def built(component: Any, clock: Clock) -> Emitter:
    """Make the running emitter of a component, as it is; raises `PlanError` where its `build` makes none."""
    running = component.build(clock) if callable(getattr(component, "build", None)) else component
    if callable(getattr(running, "emit", None)):
        emitter: Emitter = running
        return emitter
    if not callable(running):
        raise PlanError(f"{shorten(component)} builds {shorten(running)}, no emitter; {ALLOWED}", where="emitter")
    return _Function(running)


class _Function:
    """Call a function of a batch, sync or async."""

    def __init__(self, function: Callable[[Batch], Any]) -> None:
        self._function = function

    def emit(self, batch: Batch) -> Iterable[Failure] | Awaitable[Iterable[Failure] | None] | None:
        result: Iterable[Failure] | Awaitable[Iterable[Failure] | None] | None = self._function(batch)
        return result
