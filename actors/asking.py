"""Ask actors while a pipeline is changed: they may die meanwhile, and are asked again once they are back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray.exceptions

from polku.actors.drain import call
from polku.actors.nodes import is_pending
from polku.errors import ChangeError, PolkuError
from polku.text import named

ANSWER_SECONDS = 30.0
"""How long a part may be away, or take for its answer, before a change is given up."""

_AGAIN_SECONDS = 0.1


async def ask(part: str, method: Any, *arguments: object, seconds: float = ANSWER_SECONDS, **options: object) -> Any:
    """Return an actor's answer; one that is on its way back is asked again.

    Raises what the actor raised where that is an error of ours, else `ChangeError` that names the part.
    """
    try:
        return await _ask(part, method, arguments, options, seconds)
    except ray.exceptions.RayTaskError as error:
        raise ChangeError([f"{part} failed: {_said(error.cause)}"]) from None


async def begin(part: str, handle: Any, seconds: float) -> int:
    """Start a new part, and return the epoch of its life; raises `ChangeError` where it does not start."""
    try:
        await _begun(part, handle, seconds)
        return int((await _ask(part, handle.vitals, (), {}, seconds)).epoch)
    except ChangeError:
        raise
    except ray.exceptions.RayTaskError as error:
        raise ChangeError([f"{part} does not start: {_said(error.cause)}"]) from None
    except PolkuError as error:
        raise ChangeError([f"{part} does not start: {_said(error)}"]) from None


async def _begun(part: str, handle: Any, seconds: float) -> None:
    try:
        await _ask(part, handle.begin, (), {}, seconds)
    except ChangeError:
        if await asyncio.to_thread(is_pending, handle):
            raise ChangeError([f"{part}: no node has room for it: it did not start within {seconds:g} s"]) from None
        raise


async def _ask(part: str, method: Any, arguments: Any, options: Any, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await asyncio.wait_for(call(method.remote(*arguments, **options)), deadline - time.monotonic())
        except TimeoutError:
            raise ChangeError([f"{part} did not answer within {seconds:g} s"]) from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PolkuError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            if time.monotonic() > deadline - _AGAIN_SECONDS:
                reason = str(error).partition("\n")[0]
                raise ChangeError([f"{part} does not answer: {type(error).__name__}: {reason}"]) from None
            await asyncio.sleep(_AGAIN_SECONDS)


def _said(error: BaseException) -> str:
    notes = getattr(error, "__notes__", ())
    return f"{named(error)} ({notes[0]})" if notes else named(error)
