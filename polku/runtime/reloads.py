"""What became of the changes of a running pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from polku.scaling.scale import Scale


class Reloads(Struct, frozen=True):
    """Count changes by what became of them.

    `done_at` is when the latest one was done, in Unix seconds (0: none was). `reason` says why the latest one changed
    nothing, and is empty where it was done; `alarm` is that as health has it, for those that nobody waits for.
    """

    done: int = 0
    refused: int = 0
    done_at: float = 0.0
    reason: str = ""
    alarm: str = ""
    scales: tuple[Scale, ...] = ()  # the numbers that change by need

    def complaints(self) -> Iterator[tuple[str, str]]:
        """Yield what health says of changes that were not done: the name of a part, and why it is unhealthy."""
        if self.alarm:
            yield "reload", f"{self.alarm}; it runs on as it was"
        if faults := [scale.fault for scale in self.scales if scale.fault]:
            yield "scaling", f"{'; '.join(faults)}; it runs on as it was"

    def noted(self, reason: str = "", *, alarms: bool = False) -> Reloads:
        """Return the counts with one change more, and why it changed nothing (empty: it was done)."""
        if not reason:
            return Reloads(self.done + 1, self.refused, time.time(), scales=self.scales)
        return replace(self, refused=self.refused + 1, reason=reason, alarm=reason if alarms else self.alarm)
