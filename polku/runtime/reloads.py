"""What became of the changes of a running pipeline."""

from __future__ import annotations

import time
from typing import NamedTuple


class Reloads(NamedTuple):
    """Count changes by what became of them.

    `done_at` is when the latest one was done, in Unix seconds (0: none was). `reason` says why the latest one changed
    nothing, and is empty where it was done; `alarm` is that as health has it, for those that nobody waits for.
    """

    done: int = 0
    refused: int = 0
    done_at: float = 0.0
    reason: str = ""
    alarm: str = ""

    def noted(self, reason: str = "", *, alarms: bool = False) -> Reloads:
        """Return the counts with one change more, and why it changed nothing (empty: it was done)."""
        if not reason:
            return Reloads(self.done + 1, self.refused, time.time())
        return self._replace(refused=self.refused + 1, reason=reason, alarm=reason if alarms else self.alarm)
