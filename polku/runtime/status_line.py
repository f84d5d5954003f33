"""A line at the bottom of a terminal that says how things are, below what else is written there."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any, TextIO, cast

from polku.progress import fitted

_ERASE = "\r\x1b[2K"


class StatusLine:
    """Keep a line below everything that is written to standard error, in a `with` block; nothing where not `shown`."""

    def __init__(self, *, shown: bool) -> None:
        self.is_shown = shown
        self._stream: TextIO = sys.stderr
        self._lock = threading.RLock()
        self._text = ""
        self._is_drawn = False
        self._redirected: list[logging.StreamHandler[Any]] = []

    def show(self, text: str) -> None:
        """Say this from now on."""
        if not self.is_shown:
            return
        with self._lock:
            self._text = fitted(text)
            self._erase()
            self._draw()

    def write(self, text: str) -> int:
        """Write what others have to say above the line."""
        with self._lock:
            self._erase()
            written = self._stream.write(text)
            if text.endswith("\n"):
                self._draw()
            return written

    def __enter__(self) -> StatusLine:
        if self.is_shown:
            self._stream = sys.stderr
            own = cast("TextIO", self)
            handlers = [one for one in logging.getLogger().handlers if isinstance(one, logging.StreamHandler)]
            self._redirected = [handler for handler in handlers if handler.stream is self._stream]
            for handler in self._redirected:
                handler.setStream(own)
            sys.stderr = own
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_shown:
            with self._lock:
                self._text = ""
                self._erase()
            sys.stderr = self._stream
            for handler in self._redirected:
                handler.setStream(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _erase(self) -> None:
        if self._is_drawn:
            self._stream.write(_ERASE)
            self._stream.flush()
            self._is_drawn = False

    def _draw(self) -> None:
        if self._text:
            self._stream.write(self._text)
            self._stream.flush()
            self._is_drawn = True


def is_wanted(*, prints_events: bool) -> bool:
    """Return whether people look at standard error, and would not have events between its lines."""
    return sys.stderr.isatty() and not (prints_events and sys.stdout.isatty())
