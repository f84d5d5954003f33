"""The optional hooks of components: called sync or async, in bounded time, each by itself.

`start` and `close` are user code: they may raise anything and may hang. A `start` that fails keeps the pipeline from
starting; a `close` that fails is logged with its component's name and keeps no other part from being closed. A sync
hook holds up the event loop while it runs, so only async ones can be given up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from msgspec import Struct

from polku.text import named
from polku.usercode import as_exception, contained, is_ours

START_SECONDS = 300.0
"""How long an async `start` may take: models may have to be loaded."""

CLOSE_SECONDS = 10.0
"""How long an async `close` may take."""

_LOG = logging.getLogger(__name__)
_given_up: set[asyncio.Future[Any]] = set()  # hooks that hang also when they are cancelled


async def start_hook(name: str, component: object, *, seconds: float = START_SECONDS) -> None:
    """Call `start` of a component, if it has one; what it raises is raised with a note that names the component."""
    try:
        await call_hook(component, "start", seconds=seconds)
    except Exception as error:
        error.add_note(f"raised by start() of {name}")
        raise


async def close_hook(name: str, component: object, *, seconds: float = CLOSE_SECONDS) -> None:
    """Call `close` of a component, if it has one; what it raises is logged with its name."""
    await close_each([(name, lambda: call_hook(component, "close", seconds=seconds))])


async def close_each(parts: Iterable[tuple[str, Callable[[], Awaitable[object]]]]) -> None:
    """Close parts one after the other; one that fails is logged by its name, and the others are closed all the same.

    A cancellation, too, is raised only once all are closed: files are unlocked then.
    """
    cancellation: BaseException | None = None
    for name, close in parts:
        try:
            await close()
        except BaseException as error:
            if is_ours(error):
                cancellation = error
            else:
                _LOG.error("%s could not be closed: %s", name, named(error), exc_info=error)
    if cancellation is not None:
        raise cancellation


async def call_hook(component: object, hook: str, *, seconds: float | None = None) -> None:
    """Call an optional hook of a component, sync or async; what it raises comes as an `Exception`.

    Raises `TimeoutError` where an async one takes more than `seconds`.
    """
    method: Any = getattr(component, hook, None)
    if not callable(method):
        return
    try:
        result = method()
    except BaseException as error:
        if isinstance(error, Exception):
            raise
        raise as_exception(error) from error
    if inspect.isawaitable(result):
        await _await_within(contained(result), hook, seconds)


async def _await_within(work: Awaitable[None], hook: str, seconds: float | None) -> None:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            _given_up.add(task)
            task.add_done_callback(_forget)
    if not task.done():
        raise TimeoutError(f"{hook}() did not return within {seconds:g} s")
    await task


class HookFault(Struct, frozen=True):
    """Stand in the place of a snapshot that a component's `statistics` did not give."""

    alarm: str


def snapshot_of(component: object) -> Any:
    """Return what `statistics` of a component returns, None where it has none, and a `HookFault` where it raises."""
    statistics = getattr(component, "statistics", None)
    if not callable(statistics):
        return None
    try:
        return statistics()
    except BaseException as error:
        return HookFault(f"its statistics() raises {named(error)}")


def _forget(task: asyncio.Future[Any]) -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()
