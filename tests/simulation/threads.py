"""Threads of the product in a simulated world: real ones, of which one at a time runs, and when is decided by the loop.

`Threads` stands in the place of the module `threading` in one of the product's modules. A thread runs until it waits or
releases a condition, in no virtual time; the rest of its process goes on meanwhile. It dies with its process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any

from polku.testing.simulation.loop import Process, SimulatedLoop, current_process


class KilledError(BaseException):
    """End a thread whose process has died."""


class SimulatedThread:
    """A thread that runs when the loop resumes it, while the loop waits for it."""

    def __init__(self, threads: Threads, target: Callable[[], object]) -> None:
        self._threads = threads
        self._target = target
        self._context = copy_context()
        self.process: Process = current_process() or threads.loop.outside
        self._go, self._back = threading.Lock(), threading.Lock()  # held until it is the other's turn
        self._go.acquire()
        self._back.acquire()
        self._turn = 0  # how often it was resumed: what was to wake it in an earlier rest does so no more
        self._answer = self._killed = False
        self.done = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="simulated", daemon=True)

    def start(self) -> None:
        """Begin it, a moment later."""
        self._threads.running.append(self)
        self.process.on_death.append(self.kill)
        self._thread.start()
        self.wake_after(0.0, answer=True)

    def wake_after(self, seconds: float, *, answer: bool) -> None:
        """Let it run again, if it still waits for the same thing."""
        self._threads.loop.call_later(seconds, self._resume, self._turn, answer, context=self.process.context.copy())

    def park(self) -> bool:
        """Let the loop run until it wakes this thread; called in the thread."""
        self._threads.current = None
        self._back.release()
        self._go.acquire()
        self._threads.current = self
        if self._killed:
            raise KilledError
        return self._answer

    def kill(self) -> None:
        """End it, where it waits."""
        if self.done or self._threads.current is self:
            return
        self._killed = True
        self._hand_over()

    def _resume(self, turn: int, answer: bool) -> None:
        if self.done or turn != self._turn:
            return
        self._turn += 1
        self._answer = answer
        self._hand_over()
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _hand_over(self) -> None:
        was = self._threads.current
        self._go.release()
        self._back.acquire()
        self._threads.current = was

    def _run(self) -> None:
        self._go.acquire()
        self._threads.current = self
        try:
            if not self._killed:
                self._context.run(self._target)
        except KilledError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            self._threads.current = None
            self._back.release()


class Condition:
    """A condition; who releases it in a thread gives others a turn, for as long as `pause` says."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waiting: list[SimulatedThread] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread = self._threads.current
        if thread is not None and kind is None:
            thread.wake_after(self._threads.pause(), answer=True)
            thread.park()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until somebody notifies; return whether that was in time."""
        thread = self._threads.current
        assert thread is not None
        self._waiting.append(thread)
        if timeout is not None:
            thread.wake_after(timeout, answer=False)
        try:
            return thread.park()
        finally:
            if thread in self._waiting:
                self._waiting.remove(thread)

    def notify(self) -> None:
        """Wake who waits longest."""
        if self._waiting:
            self._waiting.pop(0).wake_after(0.0, answer=True)


class Event(Condition):
    """An event."""

    def __init__(self, threads: Threads) -> None:
        super().__init__(threads)
        self._is_set = False

    def set(self) -> None:
        """Wake who waits."""
        self._is_set = True
        self.notify()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return whether that was in time."""
        return self._is_set or super().wait(timeout)


class Threads:
    """Stand in the place of `threading`; a thread that releases a condition rests for `pause()` seconds."""

    def __init__(self, loop: SimulatedLoop, pause: Callable[[], float]) -> None:
        self.loop = loop
        self.pause = pause
        self.running: list[SimulatedThread] = []
        self.current: SimulatedThread | None = None

    def Thread(self, *, target: Callable[[], object], **options: Any) -> SimulatedThread:
        """Make a thread."""
        return SimulatedThread(self, target)

    def Condition(self) -> Condition:
        """Make a condition."""
        return Condition(self)

    def Event(self) -> Event:
        """Make an event."""
        return Event(self)

    def end(self) -> None:
        """End all threads."""
        for thread in self.running:
            thread.kill()
        self.running.clear()
