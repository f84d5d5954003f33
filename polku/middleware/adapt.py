"""Take what users write as middleware: built-in configurations, classes with `process(events)`, plain functions."""

from __future__ import annotations

import inspect
from typing import Any

from polku.clock import Clock
from polku.contracts import Holder, Step
from polku.errors import PlanError
from polku.middleware.transform import Transform
from polku.middleware.whole import Whole


def check_middleware(component: object) -> None:
    """Raise `PlanError` for something that is no middleware."""
    if inspect.isclass(component):
        name = component.__name__
        raise PlanError(f"{name} is a class; pass an object of it: .middleware({name}(...))", where="middleware")
    if not any(callable(getattr(component, method, None)) for method in ("build", "process", "__call__")):
        raise PlanError(
            f"{component!r} is no middleware; pass a function of one event, an object with process(events), "
            "or built-in middleware such as Filter(...)",
            where="middleware",
        )


def as_step(component: Any, clock: Clock) -> Step | Holder:
    """Make the running object of a component."""
    if callable(getattr(component, "build", None)):
        component = component.build(clock)
    if hasattr(component, "drop_reason") and hasattr(component, "name"):
        step: Step | Holder = component
        return step
    if callable(getattr(component, "process", None)):
        return _Hosted(component)
    return Transform(component).build(clock)


def component_name(component: object) -> str:
    """Return what a component is called in statistics and messages."""
    name = getattr(component, "name", None)
    if isinstance(name, str) and name:
        return name
    for attribute in ("predicate", "function", "check"):
        inner = getattr(component, attribute, None)
        if callable(inner) and not inspect.ismethod(inner):
            return f"{type(component).__name__}({getattr(inner, '__name__', type(inner).__name__)})"
    return str(getattr(component, "__name__", type(component).__name__))


class _Hosted(Whole):
    """Run a user's object, with its hooks."""

    def __init__(self, component: Any) -> None:
        super().__init__(component_name(component), component.process, timeout=getattr(component, "timeout", 30.0))
        for hook in ("start", "close"):
            if callable(getattr(component, hook, None)):
                setattr(self, hook, getattr(component, hook))
