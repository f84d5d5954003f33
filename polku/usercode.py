"""Exceptions of user code and libraries: which of them are failures to handle, and in which form they travel on.

User code raises more than `Exception`: `CancelledError` (awaiting a task that was cancelled raises it, and grpc.aio
does when a channel is closed), `SystemExit` (argparse), or a panic of a Rust extension, which derives from
`BaseException` alone. All of them are failures of that code, except the cancellation of the task that runs now.

Two forms are used for a call. A sync call cannot be cancelled while it runs, so everything counts:

    try:
        result = function(event)
    except BaseException as error: ...

Around an `await`, the own cancellation has to pass:

    try:
        result = await function(event)
    except BaseException as error:
        if is_ours(error):
            raise
        ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from polku.errors import UserCodeError
from polku.text import named

T = TypeVar("T")


def is_ours(error: BaseException, *, cancelled: bool | None = None) -> bool:
    """Return whether an exception ends the coroutine that runs now on behalf of its owner, and must be raised again.

    That is the cancellation of the current task, by `cancel()` or a timeout, and the closing of a coroutine that
    nobody awaits any more. A `CancelledError` that the awaited code raised by itself is not. An owner that alone
    cancels its tasks says whether it has: user code may cancel the task that it runs in.
    """
    if isinstance(error, asyncio.CancelledError):
        if cancelled is not None:
            return cancelled
        task = _current_task()
        return task is not None and task.cancelling() > 0
    if isinstance(error, GeneratorExit):
        # `close()` raises it where the coroutine waits; what code raises by itself has that code's frame below.
        return error.__traceback__ is None or error.__traceback__.tb_next is None
    return False


def as_exception(error: BaseException) -> Exception:
    """Return an exception that a future or a task can hold without further effect.

    Raised by a task, `SystemExit` and `KeyboardInterrupt` end the event loop, `CancelledError` reads as cancelled, and
    `GeneratorExit` closes whoever awaits the task: in place of such an exception stands a `UserCodeError` with its name
    and text.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = UserCodeError(named(error))
    wrapped.__cause__ = error
    return wrapped


async def contained(work: Awaitable[T]) -> T:
    """Await user code; whatever it raises comes as an `Exception`, so that a task may run it."""
    try:
        return await work
    except BaseException as error:
        if is_ours(error):
            raise
        if isinstance(error, Exception):
            raise
        raise as_exception(error) from error


def contained_call(function: Callable[..., T], *arguments: object) -> T:
    """Call user code, as in a thread; whatever it raises comes as an `Exception`, so that a future may hold it."""
    try:
        return function(*arguments)
    except BaseException as error:
        raise as_exception(error) from error


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None
