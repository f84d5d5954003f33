"""Take what users write as emitters: built-in configurations, classes with `emit(batch)`, plain functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from polku.batch import Batch
from polku.clock import Clock
from polku.contracts import Emitter, Failure
from polku.errors import PlanError, RejectedError


def check_emitter(component: object) -> None:
    """Raise `PlanError` for something that is no emitter."""
    if inspect.isclass(component):
        name = component.__name__
        raise PlanError(f"{name} is a class; pass an object of it: .emitter({name}(...))", where="emitter")
    if not any(callable(getattr(component, method, None)) for method in ("build", "emit", "__call__")):
        raise PlanError(
            f"{component!r} is no emitter; pass a function of a batch, an object with emit(batch), "
            "or a built-in emitter such as StdoutEmitter()",
            where="emitter",
        )


def emitter_name(component: object) -> str:
    """Return the routing address: the emitter's `name`, its function's, or its class's without "Emitter"."""
    name = getattr(component, "name", None)
    if isinstance(name, str) and name:
        return name
    function_name = getattr(component, "__name__", None)
    if isinstance(function_name, str):
        return "function" if function_name == "<lambda>" else function_name
    stem = type(component).__name__.removesuffix("Emitter") or type(component).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()


def as_emitter(component: Any, clock: Clock) -> Emitter:
    """Make the running emitter of a component, with the default resilience unless it has its own."""
    from polku.emit.resilience import Resilience
    from polku.emit.retry import Retry

    if isinstance(component, Resilience):
        return component.build(clock)
    # What goes over a network comes back some day. Code of this process that fails five times will go on failing.
    retry = Retry() if getattr(component, "is_remote", False) else Retry(attempts=5, limit=1.0)
    return Resilience(component, retry=retry).build(clock)


def built(component: Any, clock: Clock) -> Emitter:
    """Make the running emitter of a component, as it is."""
    if callable(getattr(component, "build", None)):
        component = component.build(clock)
    if callable(getattr(component, "emit", None)):
        emitter: Emitter = component
        return emitter
    return _Function(component)


class _Function:
    """Call a function of a batch, sync or async; it returns None, or the `Failure`s of events that it did not take."""

    def __init__(self, function: Callable[[Batch], Any]) -> None:
        self._function = function

    async def emit(self, batch: Batch) -> list[Failure] | None:
        result = self._function(batch)
        if inspect.isawaitable(result):
            result = await result
        if result is None:
            return None
        if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
            raise RejectedError(f"the emitter returned {result!r}; return None, or a Failure for each failed event")
        failures = list(result)
        for failure in failures:
            if not isinstance(failure, Failure):
                raise RejectedError(f"the emitter returned {failure!r} among its failures; return Failure objects")
        return failures
