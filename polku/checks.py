"""Checks that configurations make of their arguments: each names the field, the value and what is allowed."""

from __future__ import annotations

import inspect
import math

from polku.errors import PlanError


def positive(where: str, field: str, value: object) -> float:
    """Return a number above zero."""
    if not _is_number(value) or not value > 0:  # type: ignore[operator] # a number by now
        raise PlanError(f"{field}={value!r} must be a number above 0", where=where)
    return float(value)  # type: ignore[arg-type] # a number by now


def at_least_one(where: str, field: str, value: object) -> int:
    """Return a whole number of at least one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PlanError(f"{field}={value!r} must be a whole number of at least 1", where=where)
    return value


def fraction(where: str, field: str, value: object) -> float:
    """Return a number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:  # type: ignore[operator] # a number by now
        raise PlanError(f"{field}={value!r} must be a number from 0 to 1", where=where)
    return float(value)  # type: ignore[arg-type] # a number by now


def function(where: str, field: str, value: object) -> None:
    """Make sure that something can be called."""
    if not callable(value):
        raise PlanError(f"{field}={value!r} must be a function", where=where)


def is_async(function: object) -> bool:
    """Say whether calling a function gives an awaitable."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - for objects with an async __call__


def label(function: object) -> str:
    """Return the name of a function for people."""
    return getattr(function, "__name__", type(function).__name__)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
