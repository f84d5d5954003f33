"""Payloads as values of a type: what `Transform(function, decode=Order)` calls."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from polku import checks
from polku.event.v1.event_pb2 import Event


def check_decoding(function: object, kind: object, *, batch: bool) -> None:
    """Raise `PlanError` for a function, or a type, that payloads cannot be decoded for."""
    if batch:
        raise checks.fault("Transform", "decode", kind, "is for one event at a time; leave batch=True out")
    if not callable(function) or not _takes_two(function):
        raise checks.fault("Transform", "function", function, "must take the event and the decoded payload")
    try:
        msgspec.json.Decoder(kind)
    except TypeError as error:
        raise checks.fault("Transform", "decode", kind, f"is no type that msgspec can decode: {error}") from None


def decoding(function: Callable[..., Any], kind: type) -> Callable[[Event], Any]:
    """Return a function of an event that calls `function(event, payload)`; made where it runs, as it cannot be pickled.

    It raises `msgspec.ValidationError`, which says what of the payload is wrong and where.
    """
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
    encode = msgspec.json.Encoder().encode

    def written(event: Event, result: Any) -> Any:
        if result is None or isinstance(result, Event):
            return result
        msgspec.convert(result, kind)  # what is something else is an error of the function, as any wrong result is
        event.payload = encode(result)
        return None

    async def awaited(event: Event, result: Awaitable[Any]) -> Any:
        return written(event, await result)

    def call(event: Event) -> Any:
        result = function(event, decode(event.payload))
        return awaited(event, result) if inspect.isawaitable(result) else written(event, result)

    return call


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        return True
    return True
