"""Take what users write as ingestors: objects with `ingest(data, context)` and plain functions, sync or async."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from polku.checks import one_way
from polku.clock import Clock
from polku.contracts import IngestContext, Ingestor, Records
from polku.errors import PlanError, RecordError
from polku.event.v1.event_pb2 import Event

ALLOWED = "pass an object with ingest(data, context), or a function of data or of (data, context)"


def check_ingestor(component: object) -> None:
    """Raise `PlanError` for something that is no ingestor, naming what came and what is allowed."""
    if inspect.isclass(component):
        name = component.__name__
        raise PlanError(f"{name} is a class; pass an object of it: .ingestor({name}(...))", where="ingestor")
    one_way(component, "ingestor", "ingest")
    if callable(getattr(component, "build", None)):
        _refuse_other_kinds(component)
    elif callable(method := getattr(component, "ingest", None)):
        if _accepts(method, 2) is False:
            raise PlanError(f"{component!r}: ingest must take (data, context)", where="ingestor")
    elif not callable(component) or any(hasattr(component, other) for other in ("emit", "process")):
        raise PlanError(f"{component!r} is no ingestor; {ALLOWED}", where="ingestor")
    elif _accepts(component, 1) is False and _accepts(component, 2) is False:
        raise PlanError(f"{component!r} must take data, or data and context", where="ingestor")


def as_ingestor(component: object, clock: Clock) -> Ingestor:
    """Make the running object of a component; call it where the object is to run."""
    built: Any = component
    if callable(getattr(component, "build", None)):
        built = built.build(clock)
    if callable(getattr(built, "ingest", None)):
        ingestor: Ingestor = built
        return ingestor
    if callable(built):
        return _Function(built)
    raise PlanError(f"{built!r} is no ingestor; {ALLOWED}", where="ingestor")


class _Function:
    """Call a function of `(data, context)`, or of `data` alone, with its hooks."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._wants_context = _accepts(function, 2) is True
        self._name = getattr(function, "__name__", type(function).__name__)
        for hook in ("start", "close"):
            if callable(getattr(function, hook, None)):
                setattr(self, hook, getattr(function, hook))

    def ingest(self, data: bytes, context: IngestContext) -> Records | Awaitable[Records]:
        """Return the records that the function returns or yields; a single one may stand alone."""
        result = self._function(data, context) if self._wants_context else self._function(data)
        if inspect.isawaitable(result) or inspect.isasyncgen(result):
            return self._await(result)
        return self._records(result)

    async def _await(self, result: Any) -> Records:
        if inspect.isasyncgen(result):
            return self._records([record async for record in result])
        return self._records(await result)

    def _records(self, result: Any) -> Records:
        if isinstance(result, (Event, RecordError)):
            return [result]
        if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
            raise TypeError(f"{self._name} returned {type(result).__name__}, expected an iterable of Events")
        return result

    def __repr__(self) -> str:
        return f"<ingestor {self._name}>"


def _accepts(function: Callable[..., Any], count: int) -> bool | None:
    """Return whether a function can be called with so many arguments; None where it has no signature to look at."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _refuse_other_kinds(component: object) -> None:
    for folder, method in (("middleware", "middleware"), ("emit", "emitter")):
        if type(component).__module__.startswith(f"polku.{folder}."):
            name = type(component).__name__
            raise PlanError(f"{name} is no ingestor; add it with .{method}({name}(...))", where="ingestor")
