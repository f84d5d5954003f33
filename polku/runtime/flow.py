"""What flows through a pipeline, in one line for people: while it serves, and while it drains."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from polku.progress import Rate
from polku.text import counted, duration, line

if TYPE_CHECKING:
    from polku.monitoring.statistics import OutletStatistics, PipelineStatistics


class Flow:
    """Look at the statistics of a pipeline again and again, and say what has happened since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._received, self._sent = Rate(clock), Rate(clock)
        self._taken: dict[str, Rate] = {}  # by emitter

    def status(self, tree: PipelineStatistics) -> str:
        """Return how much comes in and goes out, what waits and for how long, and what is unhealthy."""
        outlets = [outlet for _, outlet in _outlets(tree)]
        received = sum(lane.ingest.received for lane in tree.lanes if lane.ingest is not None)
        rates = self._received.note(received), self._sent.note(sum(outlet.confirmed for outlet in outlets))
        text = f"in {rates[0]:,.0f}/s  out {rates[1]:,.0f}/s  waiting {sum(one.waiting for one in outlets):,}"
        if oldest := max((outlet.oldest_age_seconds for outlet in outlets), default=0.0):
            text += f"  oldest {oldest:,.1f} s"
        unhealthy = [line(name) for name, part in tree.parts.items() if not part.healthy]
        return text + (f"  unhealthy: {', '.join(unhealthy)}" if unhealthy else "")

    def left(self, tree: PipelineStatistics) -> str:
        """Return what a drain still has to deliver, and for how long that will take; empty where nothing is left."""
        waiting, done = Counter[str](), Counter[str]()
        for name, outlet in _outlets(tree):
            waiting[name] += outlet.waiting
            done[name] += outlet.confirmed + outlet.dead
        rates = {name: self._taken.setdefault(name, Rate(self._clock)).note(done[name]) for name in waiting}
        total = waiting.total()
        each = [_pace(name, count, rates[name]) for name, count in waiting.items() if count]
        return f"{counted(total, 'event')} left; {'; '.join(each)}" if total else ""


def _outlets(tree: PipelineStatistics) -> list[tuple[str, OutletStatistics]]:
    return [pair for lane in tree.lanes if lane.buffer is not None for pair in lane.buffer.outlets.items()]


def _pace(name: str, count: int, rate: float) -> str:
    if not rate:
        return f"{line(name)} takes nothing of its {count:,}"
    return f"{line(name)} takes {rate:,.0f}/s, {duration(count / rate)}"
