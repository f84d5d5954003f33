"""Tell when a drain can only wait: all that is left is in a journal, for destinations that take nothing.

Waiting for longer would change nothing: the next start delivers it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from polku.runtime.lane import LaneStatistics
from polku.runtime.watch import trouble

_LOOK_SECONDS = 0.25
# While messages have no answer yet, which may be on their way to the journal, or wait for room or for a delivery.
_PATIENCE = 3.0
_CANCEL_SECONDS = 1.0  # user code may take its time to end after a cancellation

Look = Callable[[], Awaitable[Sequence[LaneStatistics]]]


class Standstill:
    """Remember since when nothing has moved."""

    def __init__(self) -> None:
        self._moved: tuple[int, ...] = ()
        self._since = 0.0

    def is_reached(self, lanes: Sequence[LaneStatistics], now: float) -> bool:
        """Return whether every outlet of the lanes is empty or in trouble, and nothing else is to be expected."""
        moved = tuple(_moved(lane) for lane in lanes)
        if moved != self._moved:
            self._moved, self._since = moved, now
        lagging = [(lane, name) for lane in lanes for name, outlet in lane.buffer.outlets.items() if outlet.lag]
        if not lagging or not all(_is_in_trouble(lane, name) for lane, name in lagging):
            return False
        unanswered = sum(lane.intake.open for lane in lanes)
        return now - self._since >= (_PATIENCE if unanswered else 0.0)


async def drain_within(seconds: float, drain: Coroutine[Any, Any, None], look: Look | None) -> bool:
    """Drain, for so many seconds at most; return whether that came to its end, and raise what it raised.

    With a journal, where `look` returns what every lane has counted, a standstill ends it as well.
    """
    draining = asyncio.ensure_future(drain)
    waiting = [draining, *([asyncio.ensure_future(_wait_for_standstill(look))] if look is not None else [])]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            draining.result()
            return True
        return False
    finally:
        for task in waiting:
            task.cancel()
        done, _ = await asyncio.wait(waiting, timeout=_CANCEL_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()


async def _wait_for_standstill(look: Look) -> None:
    standstill = Standstill()
    while True:
        if standstill.is_reached(await look(), time.monotonic()):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _is_in_trouble(lane: LaneStatistics, emitter: str) -> bool:
    return bool(lane.buffer.outlets[emitter].fault or trouble(lane.emitters[emitter]))


def _moved(lane: LaneStatistics) -> int:
    """Return a number that rises with everything that a lane does."""
    done = sum(outlet.confirmed + outlet.dead + outlet.dropped for outlet in lane.buffer.outlets.values())
    return done + lane.intake.accepted + lane.intake.refused + lane.buffer.received
