"""Event loops that say where they were made, in the warning about one that nobody has closed."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any


def name_birthplaces() -> None:
    """Add the lines of the code that makes it to the description of each event loop of Python's own kind."""
    base: Any = asyncio.BaseEventLoop
    make, describe = base.__init__, base.__repr__

    def init(self: Any) -> None:
        make(self)
        frame: FrameType | None = sys._getframe(1)
        places: list[str] = []
        while frame is not None and len(places) < 12:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        self._birthplace = " < ".join(places)

    base.__init__ = init
    base.__repr__ = lambda self: f"{describe(self)} made at {getattr(self, '_birthplace', '?')}"
