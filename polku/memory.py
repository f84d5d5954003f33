"""Give memory back to the operating system once a process is quiet.

The C library keeps what a burst of events needed, for the next one. Measured inline: 36 to 41 MB right after bursts of
500,000 events, 29 MB two seconds later; of four actors 320 and 287 MB. Giving it back takes 1 to 2 ms, in which nobody
else can allocate, so it waits for a moment in which nothing happens.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

_NAME = "polku-memory"
_LOOK_SECONDS = 1.0
_QUIET_SECONDS = 0.05  # of CPU between two looks: Ray's own threads need 0.01 to 0.02
_WORTH_SECONDS = 0.5  # of CPU since memory was given back: less work has not taken much


class Quiet:
    """Tell from the CPU seconds that a process has used whether it has become quiet after some work."""

    def __init__(self, used: float) -> None:
        self._seen = self._given_back = used

    def has_come(self, used: float) -> bool:
        """Say so once after each piece of work; ask in equal intervals."""
        since, self._seen = used - self._seen, used
        if since >= _QUIET_SECONDS or used - self._given_back < _WORTH_SECONDS:
            return False
        self._given_back = used
        return True


def give_back_when_quiet() -> None:
    """Watch this process from a thread, where the C library can give memory back (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and _NAME not in {thread.name for thread in threading.enumerate()}:
        threading.Thread(target=_watch, args=(trim,), name=_NAME, daemon=True).start()


def _watch(trim: Callable[[int], int]) -> None:
    quiet = Quiet(time.process_time())
    while True:
        time.sleep(_LOOK_SECONDS)
        if quiet.has_come(time.process_time()):
            trim(0)
