"""Checks that configurations make of their arguments: each names the field, the value and what is allowed."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import math
import os
import reprlib
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, TypeVar

from polku.errors import PlanError

Choice = TypeVar("Choice", bound=StrEnum)

_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxstring = _REPR.maxlong = 60


def fault(where: str, field: str, value: object, fix: str) -> PlanError:
    """Make the error that says which argument is wrong and how to mend it: `RateLimiter(rate=-1): must be …`."""
    return PlanError(fix, where=f"{where}({field}={shorten(value)})")


def one_way(component: object, where: str, method: str) -> None:
    """Make sure that an object is a configuration with `build`, or has `method` itself: not both."""
    if callable(getattr(component, "build", None)) and callable(getattr(component, method, None)):
        fix = f"has both build and {method}: leave one of them out; what build returns has {method}"
        raise PlanError(f"{shorten(component)} {fix}", where=where)


def has_ray() -> bool:
    """Return whether Ray is installed, which `polku-core` does without."""
    return importlib.util.find_spec("ray") is not None


def ray_installed() -> None:
    """Make sure that Ray is installed."""
    if not has_ray():
        fix = (
            "needs Ray, which is not installed: pip install 'ray[default]', or run in one process "
            "(--runtime inline, POLKU_RUNTIME=inline, Hub(runtime='inline'))"
        )
        raise PlanError(fix, where="runtime='ray'")


def shorten(value: object) -> str:
    """Return a value's `repr`, cut to some 60 characters; never raises."""
    try:
        return _REPR.repr(value)
    except BaseException:  # reprlib itself catches each Exception
        return f"<{type(value).__name__} without a repr>"


def positive(where: str, field: str, value: object) -> None:
    """Make sure of a number above zero."""
    if _number(value) <= 0:
        raise fault(where, field, value, "must be a number above 0")


def at_least_one(where: str, field: str, value: object) -> None:
    """Make sure of a finite number of at least one."""
    if _number(value) < 1:
        raise fault(where, field, value, "must be a number of at least 1")


def whole(where: str, field: str, value: object) -> None:
    """Make sure of a whole number of at least one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise fault(where, field, value, "must be a whole number of at least 1")


def fraction(where: str, field: str, value: object) -> None:
    """Make sure of a number from 0 to 1."""
    if not 0 <= _number(value) <= 1:
        raise fault(where, field, value, "must be a number from 0 (none) to 1 (all)")


def choice(where: str, field: str, value: object, known: type[Choice]) -> Choice:
    """Return the member of an enum, given as itself or as its string."""
    try:
        return known(str(value))
    except ValueError:
        raise fault(where, field, value, f"is not known; choose {either(known)}") from None


def metadata_key(where: str, field: str, value: object) -> None:
    """Make sure of the name of a metadata entry, or None."""
    if value is not None and (not isinstance(value, str) or not value):
        raise fault(where, field, value, "must be the name of a metadata entry, such as 'tenant'")


def function(where: str, field: str, value: object, *, of: str = "the event", sync: bool = False) -> None:
    """Make sure of a function of one argument, and, with `sync`, of one that is not async."""
    if not callable(value):
        raise fault(where, field, value, f"must be a function of {of}")
    if not takes_one(value):
        raise fault(where, field, value, f"must take one argument: {of}")
    if sync and is_async(value):
        raise fault(where, field, value, "must not be async; look things up in an Enricher before it")


def no_generator(where: str, field: str, value: object) -> None:
    """Make sure that calling a function runs it."""
    if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise fault(where, field, value, "must return its result, not yield it")


def is_async(function: object) -> bool:
    """Return whether calling a function gives an awaitable."""
    call = getattr(function, "__call__", None)  # noqa: B004 - for objects with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def takes_one(function: Callable[..., Any]) -> bool:
    """Return whether a function can be called with one argument; what has no signature to look at is trusted."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def label(function: object) -> str:
    """Return the name of a function for people."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


def either(names: Iterable[str]) -> str:
    """Return names for people: `'a', 'b' or 'c'`."""
    *others, last = (repr(str(name)) for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def _number(value: object) -> float:
    """Return a finite number, or one that is out of every range."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number of hundreds of digits
            return value if math.isfinite(value) else -math.inf
    return -math.inf


def absolute(path: str) -> str:
    """Return a path that stays the same; raises `PlanError` where it is relative to a directory that was deleted."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        fix = "is relative to the working directory of this program, which was deleted; write an absolute path"
        raise PlanError(f"path {path!r} {fix}") from None
