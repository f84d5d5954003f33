"""Take what users write as ingestors: objects with `ingest(data, context)` and plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from polku.clock import Clock
from polku.contracts import IngestContext, Ingestor, Records
from polku.errors import PlanError


def check_ingestor(component: object) -> None:
    """Raise `PlanError` for something that is no ingestor."""
    if inspect.isclass(component):
        name = component.__name__
        raise PlanError(f"{name} is a class; pass an object of it: .ingestor({name}(...))", where="ingestor")
    if not any(callable(getattr(component, method, None)) for method in ("build", "ingest", "__call__")):
        raise PlanError(
            f"{component!r} is no ingestor; pass an object with ingest(data, context) or a function of data",
            where="ingestor",
        )


def as_ingestor(component: Any, clock: Clock) -> Ingestor:
    """Make the running object of a component."""
    if callable(getattr(component, "build", None)):
        component = component.build(clock)
    if callable(getattr(component, "ingest", None)):
        ingestor: Ingestor = component
        return ingestor
    return _Function(component)


class _Function:
    """Call a function of `(data, context)`, or of `data` alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._wants_context = len(_positional(function)) > 1

    def ingest(self, data: bytes, context: IngestContext) -> Records | Awaitable[Records]:
        """Return what the function returns."""
        result: Records = self._function(data, context) if self._wants_context else self._function(data)
        return result


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters if parameter.kind in kinds]
