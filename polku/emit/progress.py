"""What one call of an emitter has achieved so far: it stays true where the call is cut off or fails.

An emitter that sends a batch in parts notes each part here (`send_parts` does). Whoever calls it, `Resilience`, gives
it until nothing was noted for too long, and sends only what was not noted again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

from polku.aio.context import Within
from polku.contracts import Failure


class Progress:
    """The events of a call that have an outcome.

    `events` is the number of all that could be tried: with those of other calls, which wait. `is_probe` says that the
    call is made to learn whether the destination takes anything.
    """

    def __init__(self, events: int = 0, *, is_probe: bool = False) -> None:
        self.is_probe = is_probe
        self.events = events
        self._settled: list[tuple[Sequence[int], Sequence[Failure]]] = []
        self.is_confirming = False  # whether the destination has taken anything
        self.error: Exception | None = None
        self._timer: asyncio.Timeout | None = None
        self._limit = 0.0

    def limit(self, timer: asyncio.Timeout, seconds: float) -> None:
        """Restart the timer of the call, of that many seconds, with each step."""
        self._timer, self._limit = timer, seconds

    def settle(self, positions: Sequence[int], failures: Sequence[Failure] = ()) -> None:
        """Note the outcome of the events at these positions: confirmed, but for failures, which name theirs."""
        self._settled.append((positions, failures))
        self.is_confirming = self.is_confirming or len(failures) < len(positions)

    @property
    def outcomes(self) -> dict[int, Failure | None]:
        """The events that have an outcome, by position in the batch; None stands for a confirmation."""
        outcomes: dict[int, Failure | None] = {}
        for positions, failures in self._settled:
            refused = {failure.position: failure for failure in failures}
            outcomes.update((position, refused.get(position)) for position in positions)
        return outcomes

    def step(self, seconds: float = 0.0) -> None:
        """Begin something with a limit of its own of that many seconds: the time limit of the call restarts."""
        timer = self._timer
        if timer is not None and timer.when() is not None and not timer.expired():
            timer.reschedule(asyncio.get_running_loop().time() + max(self._limit, seconds))

    def stopped(self, error: Exception) -> None:
        """Note why the rest was not sent."""
        self.error = error


_CURRENT: ContextVar[Progress | None] = ContextVar("polku_progress", default=None)


def current() -> Progress:
    """Return the progress of the call that this code is part of; where nobody asks for it, one that nobody reads."""
    return _CURRENT.get() or Progress()


def watching(progress: Progress) -> Within[Progress]:
    """Make `progress` the current one, within a block."""
    return Within(_CURRENT, progress)
