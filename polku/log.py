"""Log lines that may repeat: the first at once, then one a minute that says how many there were.

A destination that is down, or a client that sends thousands of bad events, otherwise writes more log than it sends
data. Lines of one `kind` count as the same, whatever their arguments; the latest one stands for all.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

from polku.text import named, trace

PERIOD = 60.0
_MAX_KINDS = 1_000


class _Timer(Protocol):
    def cancel(self) -> None: ...


class RepeatedLog:
    """Write lines to a logger, each kind once in a period; from any thread.

    The lines that were left out are counted, and the period ends with the latest of them and that number, as does the
    process. More than a thousand kinds at once are not told apart in time: the oldest begins a new period.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        period: float = PERIOD,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], _Timer] | None = None,
    ) -> None:
        self._logger = logger
        self._period = period
        self._clock = clock
        self._call_later = call_later or _call_later
        self._kinds: dict[Hashable, _Kind] = {}
        self._lock = threading.RLock()
        self._timer: _Timer | None = None
        _ALL.add(self)

    def info(self, kind: Hashable, message: str, *arguments: object, **about: str) -> None:
        """Write a line of level INFO."""
        self.log(logging.INFO, kind, message, *arguments, about=about)

    def warning(self, kind: Hashable, message: str, *arguments: object, **about: str) -> None:
        """Write a line of level WARNING."""
        self.log(logging.WARNING, kind, message, *arguments, about=about)

    def error(self, kind: Hashable, message: str, *arguments: object, **about: str) -> None:
        """Write a line of level ERROR."""
        self.log(logging.ERROR, kind, message, *arguments, about=about)

    def exception(self, kind: Hashable, message: str, *arguments: object, **about: str) -> None:
        """Write a line of level ERROR with the traceback of the exception that is being handled."""
        self.log(logging.ERROR, kind, message, *arguments, exc_info=True, about=about)

    def log(
        self,
        level: int,
        kind: Hashable,
        message: str,
        *arguments: object,
        exc_info: bool = False,
        about: dict[str, str] | None = None,
    ) -> None:
        """Write a line, or count it where its kind was written less than a period ago.

        `about` says in the log's JSON what the line is about: `component`, `event_id`, `trace_id`.
        """
        if not self._logger.isEnabledFor(level):
            return
        about = about or {}
        with self._lock:
            known = self._kinds.get(kind)
            now = self._clock()
            if known is not None and (known.count or now < known.until):
                known.count += 1
                known.latest = (level, message, arguments, about)
                self._schedule(known.until - now)
                return
            self._forget_oldest()
            self._kinds[kind] = _Kind(now + self._period)
        error = sys.exc_info()[1] if exc_info else None
        if error is not None:
            about["error"] = trace(error)
            message, arguments = f"{message}\n%s", (*arguments, about["error"])
        with _guarded():
            self._logger.log(level, message, *arguments, stacklevel=3, extra={"about": about})

    def flush(self, *, everything: bool = True) -> None:
        """Write the lines that stand for others now, or only those whose period is over."""
        with self._lock:
            now = self._clock()
            self._timer = None
            for kind, known in list(self._kinds.items()):
                if not everything and now < known.until:
                    continue
                if known.count:
                    self._tell(known, now)
                    self._kinds[kind] = _Kind(now + self._period)
                else:
                    del self._kinds[kind]
            waiting = [known.until for known in self._kinds.values() if known.count]
            if waiting:
                self._schedule(min(waiting) - now)

    def _tell(self, known: _Kind, now: float) -> None:
        level, message, arguments, about = known.latest
        seconds = max(1, round(now - known.until + self._period))
        others: tuple[object, ...] = (seconds,)
        text = "again within %d s"
        if known.count > 1:
            text, others = "the latest of %s such lines in %d s", (f"{known.count:,}", seconds)
        extra = {"about": {**about, "count": known.count, "seconds": seconds}}
        with _guarded():
            self._logger.log(level, f"{message} ({text})", *arguments, *others, extra=extra)

    def _schedule(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._call_later(max(0.0, seconds), lambda: self.flush(everything=False))

    def _forget_oldest(self) -> None:
        if len(self._kinds) >= _MAX_KINDS:
            known = self._kinds.pop(next(iter(self._kinds)))
            if known.count:
                self._tell(known, self._clock())


class _Kind:
    """A kind of line: how long its period is, how many lines were left out of it, and the latest of them."""

    __slots__ = ("count", "latest", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.count = 0
        self.latest: tuple[int, str, tuple[Any, ...], dict[str, str]] = (0, "", (), {})


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Let no handler, filter or factory of the application's log that raises fail what only wanted to write a line.

    Python's own handlers raise too where standard error is closed. The first such failure is said on standard error.
    """
    global _has_failed
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not _has_failed:
            _has_failed = True
            with contextlib.suppress(Exception):
                print(f"polku: the log of this program raises, and lines are lost: {named(error)}", file=sys.stderr)


_has_failed = False
_ALL: weakref.WeakSet[RepeatedLog] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    for log in list(_ALL):
        log.flush()


def _call_later(seconds: float, call: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.name = "polku-log"
    timer.start()
    return timer
