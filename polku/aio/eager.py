"""Begin work in the turn of the event loop in which it is asked for, and make a task only of what has to wait.

A batch that nothing stands in the way of then goes from the door to the buffer in one turn: a task for each step of its
way costs a turn each, and more than the work on a small batch: calls one by one, to an emitter that does nothing, were
twice as many without them. (Python 3.12 has eager tasks; 3.11 does not.)

What is begun has no task of its own before it waits for the first time: it must not use `asyncio.timeout` or
`asyncio.current_task` until then, nor call user code that might.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterator
from typing import Any, TypeVar

from polku.usercode import as_exception

T = TypeVar("T")

_FATAL = (SystemExit, KeyboardInterrupt, GeneratorExit)  # raised by a task, they end the event loop or who awaits it


def start_eagerly(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Take the first steps of `work` now; return a future that is done, or the task that goes on with it."""
    loop = asyncio.get_running_loop()
    try:
        first = work.send(None)
    except StopIteration as end:
        done: asyncio.Future[T] = loop.create_future()
        done.set_result(end.value)
        return done
    except asyncio.CancelledError:
        done = loop.create_future()
        done.cancel()
        return done
    except BaseException as error:
        done = loop.create_future()
        done.set_exception(as_exception(error))
        return done
    return loop.create_task(_Rest(work, first))


class Started:
    """What is left of an awaitable whose first step was taken already, and yielded `first`."""

    __slots__ = ("_first", "_steps")

    def __init__(self, steps: Iterator[Any], first: Any) -> None:
        self._steps: Any = steps
        self._first = first

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            yield self._first
        except GeneratorExit:
            if hasattr(self._steps, "close"):
                self._steps.close()
            raise
        except BaseException as error:
            if not hasattr(self._steps, "throw"):  # an iterator of its own kind
                raise
            try:
                first = self._steps.throw(error)
            except StopIteration as end:
                return end.value
            return (yield from Started(self._steps, first).__await__())
        return (yield from self._steps)


class _Rest(Coroutine[Any, Any, T]):
    """What is left of a coroutine that was begun, for a task: cancelled at once, that too reaches where it waits."""

    __slots__ = ("_first", "_goes_on", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], first: Any) -> None:
        self._work = work
        self._first = first
        self._goes_on = False

    def send(self, value: Any) -> Any:
        if self._goes_on:
            try:
                return self._work.send(value)
            except _FATAL as error:
                raise as_exception(error) from error
        self._goes_on = True
        first, self._first = self._first, None
        return first

    def throw(self, *error: Any) -> Any:
        self._goes_on = True
        try:
            return self._work.throw(*error)
        except _FATAL as deeper:
            raise as_exception(deeper) from deeper

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise TypeError("only a task goes on with this")
