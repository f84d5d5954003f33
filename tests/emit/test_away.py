"""How long after a destination was away it is used again, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from polku.batch.batch import Batch
from polku.contracts import Failure
from polku.emit.resilience import Resilience, Resilient
from polku.errors import EmitError, MisconfiguredError, RetryableError
from polku.events import new_event
from polku.testing.simulation.loop import SimulatedLoop


class VirtualClock:
    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def time_ns(self) -> int:
        return int(self._loop.time() * 1e9)


class Away:
    """Fail until a time."""

    name = "away"

    def __init__(self, loop: SimulatedLoop, seconds: float, error: type[EmitError]) -> None:
        self._loop, self._error = loop, error
        self.back = loop.time() + seconds
        self.calls = 0

    async def emit(self, batch: Batch) -> list[Failure]:
        self.calls += 1
        if self._loop.time() < self.back:
            raise self._error("not now")
        return []


def delays(seconds: float, error: type[EmitError] = RetryableError) -> Iterator[tuple[float, int]]:
    """Return how long after its return a destination was used again, and how often it was called, for some chances."""
    for seed in range(30):
        loop = SimulatedLoop(Random(seed))
        out = Away(loop, seconds, error)
        config = Resilience(out)
        running = Resilient(out, config, config.breaker.build(VirtualClock(loop)), draw=Random(seed).random)
        loop.run_until_complete(running.emit(Batch.from_events([new_event("order", source="shop")])))
        yield loop.time() - out.back, out.calls
        loop.close()


@pytest.mark.parametrize("seconds", [1.0, 5.0, 20.0, 60.0, 3600.0])
def test_what_was_away_is_used_again_within_ten_seconds_and_about_the_time_for_which_it_was_away(
    seconds: float,
) -> None:
    found = list(delays(seconds))
    assert max(delay for delay, _ in found) <= min(10.0, 1.5 * seconds) + 0.5
    assert max(calls for _, calls in found) <= 20 + seconds / 5


def test_wrong_settings_are_tried_again_half_a_minute_later_at_most_and_seldom() -> None:
    found = list(delays(60.0, MisconfiguredError))
    assert max(delay for delay, _ in found) <= 30.5
    assert max(calls for _, calls in found) <= 6
    assert asyncio._get_running_loop() is None
