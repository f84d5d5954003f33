"""How long an event loop has not turned, and at which code it is, as another thread sees it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from functools import cache
from types import FrameType

from msgspec import Struct

_OURS = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


class Place(Struct, frozen=True):
    """Where a thread is: the function, and file and line."""

    function: str
    line: str


class Pulse:
    """Tell, from another thread, for how long an event loop has not turned."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: float | None = None
        self._thread = threading.get_ident() if asyncio._get_running_loop() is loop else 0

    def stuck(self) -> float:
        """Return for how many seconds the loop owes a turn that it was asked for, and ask where it owes none."""
        asked = self._asked
        if asked is not None:
            return time.monotonic() - asked
        self._asked = time.monotonic()
        self._loop.call_soon_threadsafe(self._turn)
        return 0.0

    def place(self) -> Place | None:
        """Return at which code of the user the loop's thread is now; None where it is at none, or is not known yet."""
        frame = sys._current_frames().get(self._thread)
        while frame is not None and not _is_users(frame):
            frame = frame.f_back
        if frame is None:
            return None
        code = frame.f_code
        return Place(code.co_qualname, f"{os.path.basename(code.co_filename)}:{frame.f_lineno}")

    def _turn(self) -> None:
        self._asked = None
        self._thread = threading.get_ident()


def _is_users(frame: FrameType) -> bool:
    """Return whether code is neither POLKU's nor a library's; the innermost such frame has called what blocks."""
    path = frame.f_code.co_filename
    return not path.startswith(("<frozen", _OURS, *_libraries())) and not os.path.realpath(path).startswith(_OURS)


@cache
def _libraries() -> tuple[str, ...]:
    """Return the folders of the standard library and of what is installed."""
    import sysconfig  # for who looks at a loop that is stuck: a start does not need it

    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
