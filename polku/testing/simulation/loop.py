"""An event loop in virtual time, in which a seed decides what runs next.

Nothing is waited for: when nothing is ready the clock jumps to the next timer. Callbacks belong to the process
(`Process`) in whose context they were scheduled. Callbacks of one process run in the order in which they were
scheduled, as asyncio promises; among processes the seed chooses, as operating systems and networks do.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar

from msgspec import Struct

T = TypeVar("T")

_TICK = 2e-5  # seconds that a turn takes: a loop without an end cannot hold the clock


class StuckError(Exception):
    """Say that nothing is ready, no timer is set, and somebody still waits."""


class EndlessError(Exception):
    """Say that more callbacks ran than a case may need."""


class Process:
    """One simulated operating system process: its callbacks run in order, and none after it was killed."""

    __slots__ = ("context", "dead", "died_by_chance", "fuse", "name", "on_death", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[_Call] = deque()
        self.dead = False
        self.fuse = 0  # callbacks until it is killed; 0: it is not
        self.died_by_chance = False
        self.on_death: list[Callable[[], object]] = []
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)

    def __repr__(self) -> str:
        return f"Process({self.name!r})"


_PROCESS: ContextVar[Process] = ContextVar("polku-simulated-process")


def current_process() -> Process | None:
    """Return the process that the running callback belongs to."""
    return _PROCESS.get(None)


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is its number, so that sets of tasks have the same order in each run."""

    __slots__ = ("number", "process")

    number: int
    process: Process

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[T]):
    """A future whose hash is its number."""

    __slots__ = ("number",)

    number: int

    def __hash__(self) -> int:
        return self.number


class _Call(Struct, weakref=False):
    """A callback and the process that it belongs to: what loops call a handle, made without a step in Python."""

    call: Callable[..., object]
    args: tuple[Any, ...]
    context: Context
    process: Process
    is_void: bool = False

    def cancel(self) -> None:
        """Let it not run."""
        self.is_void = True

    def cancelled(self) -> bool:
        """Return whether it will not run."""
        return self.is_void


async def first(*futures: asyncio.Future[Any]) -> None:
    """Return when one of these is done, as `asyncio.wait` does, in a third of the time."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(future: asyncio.Future[Any]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    for future in futures:
        future.add_done_callback(wake)
    try:
        await waiter
    finally:
        for future in futures:
            future.remove_done_callback(wake)


def _close(work: Any) -> None:
    """Close a coroutine; one that never began, with those that it was given to await."""
    frame: Any = getattr(work, "cr_frame", None)
    if frame is not None and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        for given in filter(inspect.iscoroutine, list(frame.f_locals.values())):
            given.close()
    work.close()


def _unheard(problem: object) -> None:
    """Say nothing of a coroutine that goes on where it was to end."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Run callbacks in virtual time; `limit` bounds their number, and `horizon` the virtual seconds."""

    def __init__(self, random: Random, *, limit: int = 200_000, horizon: float = 5_000.0) -> None:
        super().__init__()
        self.random = random
        self.limit = limit
        self.horizon = horizon
        self.steps = 0
        self.tasks: list[SimulatedTask[Any]] = []
        self.complaints: list[str] = []
        self.escaped: list[tuple[str, BaseException]] = []
        self.outside = Process("outside")
        self._instant = 1_000.0
        self._number = 0
        self._active: list[Process] = []
        self._timers: list[tuple[float, int, _Call]] = []
        self._stopping = False
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._instant

    def advance(self, seconds: float) -> None:
        """Let time pass without running anything, as code does that blocks."""
        self._instant += seconds

    def create_future(self) -> asyncio.Future[Any]:
        """Create a future."""
        future: SimulatedFuture[Any] = SimulatedFuture(loop=self)
        self._number += 1
        future.number = self._number
        return future

    def create_task(  # type: ignore[override]
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Create a task, and remember it until the end."""
        self._number += 1
        task: SimulatedTask[Any] = SimulatedTask.__new__(SimulatedTask)
        task.number = self._number  # before its constructor puts it into asyncio's own set of tasks
        task.__init__(coro, loop=self, name=name or "", context=context)  # type: ignore[misc]
        task.process = _PROCESS.get(self.outside) if context is None else context.get(_PROCESS, self.outside)
        self.tasks.append(task)
        return task

    def spawn(self, process: Process, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Create a task in a process."""
        return process.context.copy().run(self.create_task, work)

    def kill(self, process: Process, *, by_chance: bool = False) -> None:
        """End a process: its callbacks, timers and tasks never run again. `by_chance`: no event is the reason."""
        if process.dead:
            return
        process.dead, process.died_by_chance = True, by_chance
        process.ready.clear()
        if process in self._active:
            self._active.remove(process)
        for call in process.on_death:
            call()

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run a blocking call a moment later, as a thread would, whoever still waits for it."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self.random.random() * 1e-3, work)
        return future

    # What follows runs for every step of every case, so it does without the checks of `BaseEventLoop`.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Call:
        """Run a callback in the next turn of its process."""
        if context is None:
            context = copy_context()
        process = context.get(_PROCESS, self.outside)
        call = _Call(callback, args, context, process)
        if not process.dead:
            ready = process.ready
            if not ready:
                self._active.append(process)
            ready.append(call)
        return call

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Call:
        """Run a callback after some virtual seconds."""
        if context is None:
            context = copy_context()
        call = _Call(callback, args, context, context.get(_PROCESS, self.outside))
        self._number = number = self._number + 1
        heappush(self._timers, (self._instant + delay, number, call))
        return call

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Call:
        """Run a callback at a virtual time; of several at the same time, in the order in which they were set."""
        if context is None:
            context = copy_context()
        call = _Call(callback, args, context, context.get(_PROCESS, self.outside))
        self._number = number = self._number + 1
        heappush(self._timers, (when, number, call))
        return call

    def _run_once(self) -> None:
        """Run some callbacks of one process, and so on until the loop is stopped; jump to the next timer where none is.

        One of those that are ready, or up to four where several processes have some.
        """
        active, timers, random = self._active, self._timers, self.random.random
        end = 1_000.0 + self.horizon
        while not self._stopping:
            self._instant += _TICK
            if not active:
                self._jump()
            if timers and timers[0][0] <= self._instant:
                self._fire()
            several = len(active)
            if several > 1:
                process = active[int(random() * several)]
                self._run_some(process, 1 + int(random() * 4))
            elif several:
                process = active[0]
                self._run_some(process, len(process.ready))
            else:
                continue
            if self.steps > self.limit or self._instant > end:
                raise EndlessError(f"{self.steps} callbacks, at {self._instant - 1_000:.1f} s")

    def _run_some(self, process: Process, count: int) -> None:
        ready, ran = process.ready, 0
        take = ready.popleft
        while count and ready:
            count -= 1
            call = take()
            if call.is_void:
                continue
            ran += 1
            try:
                call.context.run(call.call, *call.args)
            except (SystemExit, KeyboardInterrupt) as error:
                self.escaped.append((process.name, error))
                self.kill(process)
                break
            except BaseException as error:
                self.call_exception_handler({"message": f"in {call.call!r}", "exception": error})
            if process.fuse and not process.dead:
                process.fuse -= 1
                if not process.fuse:
                    self.kill(process, by_chance=True)
            if process.dead:
                break
        else:
            if not ready:
                self._active.remove(process)
        self.steps += ran

    def _jump(self) -> None:
        timers = self._timers
        while timers and (timers[0][2].is_void or timers[0][2].process.dead):
            heappop(timers)
        if not timers:
            raise StuckError(f"nothing will happen any more, at {self._instant - 1_000:.1f} s")
        self._instant = max(self._instant, timers[0][0])

    def _fire(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self._instant:
            call = heappop(timers)[2]
            process = call.process
            if not call.is_void and not process.dead:
                if not process.ready:
                    self._active.append(process)
                process.ready.append(call)

    def _write_to_self(self) -> None:
        pass

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context.get('message')}: {type(error).__name__}: {error!r}")

    def bury(self) -> None:
        """Close what is left of tasks that will never run again, so that nothing speaks after the end.

        The loop counts as running meanwhile: what tasks do at their end may ask for it, and asyncio would make another.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some were never begun
            asyncio._set_running_loop(self)
            heard, sys.unraisablehook = sys.unraisablehook, _unheard  # of what closes one thing after the other
            try:
                while self.tasks:
                    task = self.tasks.pop()
                    if not task.done():
                        task._log_destroy_pending = False  # type: ignore[attr-defined]
                        with contextlib.suppress(BaseException):
                            _close(task.get_coro())
            finally:
                asyncio._set_running_loop(None)
                sys.unraisablehook = heard
            self._active.clear()
            self._timers.clear()
