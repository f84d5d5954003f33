"""Remember the latest errors of a part, for those who look at it: each text once, with how often and when it came."""

from __future__ import annotations

import time

from msgspec import Struct

from polku.text import line

_KINDS = 5


class SeenError(Struct, frozen=True):
    """An error: what it said, how often, and when last, in Unix nanoseconds."""

    text: str
    times: int
    time_ns: int


class RecentErrors:
    """Keep the latest few kinds of errors of one part; not for each event, but for each batch or call that failed."""

    def __init__(self) -> None:
        self._seen: dict[str, SeenError] = {}

    def add(self, text: str) -> None:
        """Count an error; the kind that came last longest ago makes room."""
        text = line(text)
        before = self._seen.pop(text, None)
        self._seen[text] = SeenError(text, before.times + 1 if before else 1, time.time_ns())
        while len(self._seen) > _KINDS:
            del self._seen[next(iter(self._seen))]

    def latest(self) -> tuple[SeenError, ...]:
        """Return the errors, the latest first; from any thread."""
        return tuple(reversed(self._seen.copy().values()))
