"""Take what users write as middleware: built-in configurations, classes with `process(events)`, plain functions."""

from __future__ import annotations

import inspect
from typing import Any

from polku.checks import function, label, one_way, shorten, takes_one
from polku.clock import Clock
from polku.contracts import Holder, Step
from polku.errors import PlanError
from polku.middleware.per_batch import Whole, accept_events
from polku.middleware.transform import Transform

ALLOWED = (
    "pass a function of one event, an object with process(events), or built-in middleware such as "
    "Filter(lambda event: ...)"
)

_INNER = ("predicate", "function", "check", "look_up")  # where configurations keep the user's function


def check_middleware(component: object) -> None:
    """Raise `PlanError` for something that is no middleware, naming what came and what is allowed."""
    if inspect.isclass(component):
        name = component.__name__
        raise PlanError(f"{name} is a class; pass an object of it: .middleware({name}(...))", where="middleware")
    one_way(component, "middleware", "process")
    if callable(getattr(component, "build", None)):
        _refuse_other_kinds(component)
    elif callable(getattr(component, "process", None)):
        _check_process(component)
    elif callable(component):
        _check_function(component)
    else:
        raise _no_middleware(component)


def as_step(component: object, clock: Clock) -> Step | Holder:
    """Make the running object of a component; call it where the object is to run."""
    built: Any = component
    if callable(getattr(component, "build", None)):
        built = built.build(clock)
    if hasattr(built, "drop_reason") and (hasattr(built, "process") or hasattr(built, "hold")):
        step: Step | Holder = built
        return step
    if callable(getattr(built, "process", None)):
        return _Hosted(component_name(component), built, clock)
    if callable(built):
        return Transform(built).build(clock)
    raise _no_middleware(built)


def component_name(component: object) -> str:
    """Return what a component is called in statistics and messages: its `name`, or `Filter(predicate)`, or its type."""
    name = getattr(component, "name", None)
    if isinstance(name, str) and name:
        return name
    inner = next((value for key in _INNER if callable(value := getattr(component, key, None))), None)
    if inner is not None and callable(getattr(component, "build", None)):
        return f"{type(component).__name__}({label(inner)})"
    return label(component)


class _Hosted(Whole):
    """Run a user's object, with its hooks; its `timeout` in seconds, if it has one, bounds an async `process`."""

    def __init__(self, name: str, component: Any, clock: Clock) -> None:
        timeout = getattr(component, "timeout", 30.0)
        super().__init__(name, component.process, accept_events(clock), timeout=timeout)
        for hook in ("start", "close", "statistics", "snapshot", "restore"):
            if callable(getattr(component, hook, None)):
                setattr(self, hook, getattr(component, hook))


def _check_process(component: Any) -> None:
    if not hasattr(component, "drop_reason") and not takes_one(component.process):
        raise PlanError(f"{shorten(component)}: process must take one argument, the list of events", where="middleware")


def _check_function(component: object) -> None:
    if callable(getattr(component, "emit", None)) or callable(getattr(component, "ingest", None)):
        raise _no_middleware(component)
    try:
        function("Transform", "function", component)
    except PlanError as error:
        raise PlanError(f"{label(component)} {error.message}", where="middleware") from None


def _refuse_other_kinds(component: object) -> None:
    for folder, method in (("ingest", "ingestor"), ("emit", "emitter")):
        if type(component).__module__.startswith(f"polku.{folder}."):
            name = type(component).__name__
            raise PlanError(f"{name} is no middleware; add it with .{method}({name}(...))", where="middleware")


def _no_middleware(component: object) -> PlanError:
    return PlanError(f"{shorten(component)} is no middleware; {ALLOWED}", where="middleware")
