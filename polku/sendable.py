"""Whether the components of a plan can be sent to actors, and which is at fault where one cannot."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from polku.errors import PlanError
from polku.plan import Plan


def check_pickles(plan: Plan) -> None:
    """Raise `PlanError` naming the first component that cannot be sent to an actor, and why."""
    for where, component in _components(plan):
        reason = _why_not_picklable(component)
        if reason:
            raise PlanError(
                f"cannot be sent to an actor: {reason}; open files, sockets and locks in start(), "
                "or run with runtime='inline'",
                where=where,
            )


def check_sources(plan: Plan) -> None:
    """Raise `PlanError` naming the first source that cannot be in an actor."""
    for source in plan.sources:
        if getattr(source.source, "one_process", False):
            reason = "reads what only this process has, and no actor; run with runtime='inline' (--runtime inline)"
            raise PlanError(reason, where=f"source {source.name!r}")


def _components(plan: Plan) -> list[tuple[str, object]]:
    ingestors = [(f"ingestor for source {source!r}", ingestor) for source, ingestor in plan.ingestors]
    if plan.default_ingestor is not None:
        ingestors.append(("default ingestor", plan.default_ingestor))
    ingestors += [(f"source {source.name!r}", source.source) for source in plan.sources]
    middleware = [(f"middleware {m.name}", m.component) for stage in plan.stages for m in stage.middleware]
    emitters = [(f"emitter {outlet.name!r}", outlet.emitter) for outlet in plan.outlets]
    return [*ingestors, *middleware, *emitters, *([("traces", plan.traces)] if plan.traces is not None else [])]


def _why_not_picklable(component: object) -> str:
    """Try to pickle a component as Ray will; name the field, and the variable of a function, that is at fault."""
    from ray import cloudpickle

    def fault(value: object) -> str:
        try:
            cloudpickle.dumps(value)
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    said = fault(component)
    if not said:
        return ""
    for name, value in _fields(component).items():
        if deeper := fault(value):
            return f"{name}={value!r}{_at_fault(value, fault)}: {deeper}"
    where = _at_fault(component, fault)
    return f"it{where.removeprefix(', which')}: {said}" if where else said


def _at_fault(function: object, fault: Callable[[object], str]) -> str:
    """Return which variable a function uses that cannot be pickled, in half a sentence; empty where none is found."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function):
        return ""
    variables = inspect.getclosurevars(function)
    for name, value in {**variables.nonlocals, **variables.globals}.items():
        if not inspect.ismodule(value) and fault(value):
            line = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
            return f", which uses the variable {name!r} ({type(value).__name__}; {line})"
    return ""


def _fields(component: object) -> dict[str, object]:
    slots = getattr(type(component), "__slots__", ())
    names = (*getattr(component, "__dict__", {}), *((slots,) if isinstance(slots, str) else slots))
    return {name: getattr(component, name) for name in names if hasattr(component, name)}
