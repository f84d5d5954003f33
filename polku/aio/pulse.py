"""How long an event loop has not turned, as another thread sees it."""

from __future__ import annotations

import asyncio
import time


class Pulse:
    """Tell, from another thread, for how long an event loop has not turned."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: float | None = None

    def stuck(self) -> float:
        """Return for how many seconds the loop owes a turn that it was asked for, and ask where it owes none."""
        asked = self._asked
        if asked is not None:
            return time.monotonic() - asked
        self._asked = time.monotonic()
        self._loop.call_soon_threadsafe(self._turn)
        return 0.0

    def _turn(self) -> None:
        self._asked = None
