"""Long work shows itself: a bar on a terminal that is drawn again and again, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from polku.text import duration

_DRAW_SECONDS = 0.1
_LINE_SECONDS = 10.0  # between two plain lines: what ends sooner prints none
_RATE_SECONDS = 5.0  # over which a rate is measured
_BAR = 24  # columns
_ERASE = "\r\x1b[2K"


class Rate:
    """How fast a number grows, a second, over the last seconds; 0.0 while nobody can tell."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()

    def note(self, number: float) -> float:
        """Note the number as it is now, and return the rate."""
        now = self._clock()
        self._seen.append((now, number))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RATE_SECONDS:
            self._seen.popleft()
        (then, before), seconds = self._seen[0], now - self._seen[0][0]
        return max(0.0, number - before) / seconds if seconds > 0 and now > then else 0.0


class Progress:
    """Show how far work is, of a `total` that may not be known; use it in a `with` block and call `advance` or `move`.

    On a terminal the line is erased at the end. Without `shown` nothing is ever shown.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
    ) -> None:
        self._what = what
        self._total = total
        self._stream = stream if stream is not None else sys.stderr
        self._is_terminal = self._stream.isatty()
        self._clock = clock
        self._rate = Rate(clock)
        self._done = 0
        self._is_shown = shown
        self._due = clock() + (0.0 if self._is_terminal else _LINE_SECONDS)
        self._rate.note(0)

    def advance(self, count: int = 1) -> None:
        """Count that many more as done."""
        self.move(self._done + count)

    def move(self, done: int, total: int | None = None) -> None:
        """Say how many are done by now, and of how many."""
        self._done = done
        self._total = self._total if total is None else total
        rate = self._rate.note(done)
        if self._is_shown and self._clock() >= self._due:
            self._draw(rate)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_shown and self._is_terminal:
            self._draw(self._rate.note(self._done))
            self._stream.write(_ERASE)
            self._stream.flush()

    def _draw(self, rate: float) -> None:
        self._due = self._clock() + (_DRAW_SECONDS if self._is_terminal else _LINE_SECONDS)
        text = describe(self._done, self._total, rate)
        if self._is_terminal:
            bar = f"{_bar(self._done, self._total)} " if self._total else ""
            self._stream.write(f"{_ERASE}{fitted(f'{self._what} {bar}{text}')}")
        else:
            self._stream.write(f"{self._what}: {text}\n")
        self._stream.flush()


def describe(done: int, total: int | None, rate: float) -> str:
    """Return how far work is, how fast, and for how long it will take: `500/2,000, 300/s, 5 s left`."""
    text = f"{done:,}" if total is None else f"{done:,}/{total:,}"
    if rate:
        text += f", {rate:,.0f}/s"
    if rate and total is not None and total > done:
        text += f", {duration((total - done) / rate)} left"
    return text


def fitted(text: str) -> str:
    """Return text cut to the width of the terminal, so that it stays on one line."""
    import shutil  # with what packs archives: not for who has no terminal

    return text[: max(20, shutil.get_terminal_size().columns - 1)]


def _bar(done: int, total: int | None) -> str:
    full = min(_BAR, _BAR * done // total) if total else 0
    return "━" * full + "╌" * (_BAR - full)
