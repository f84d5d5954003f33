"""What a stage tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from polku.batch.receipt import Counts
from polku.busy import Work
from polku.contracts import CallShape, CandidateCounts
from polku.dead_letters import DeadLetterStatistics
from polku.histogram import Distribution
from polku.link.link import LinkStatistics
from polku.recent_errors import SeenError


class StageStatistics(NamedTuple):
    """Count events and batches; `step` is the middleware that is at work now (empty: none), `since` when it began.

    `since` is the clock's monotonic time in seconds. `fault` says what does not work in the background.
    """

    batches: int
    received: int
    forwarded: int
    dead: int
    held: int
    counts: Counts
    step: str
    since: float
    fault: str = ""
    letters: DeadLetterStatistics | None = None  # those that are kept in an actor of its own
    errors: Sequence[SeenError] = ()  # the latest of its middleware
    link: LinkStatistics | None = None  # to what comes next, where that is one link
    work: Work = Work()
    waits: Distribution = Distribution()  # how long batches waited for their turn, weighted by events
    calls: CallShape | None = None  # of a step that is called with events of many batches
    candidates: Sequence[CandidateCounts] = ()  # new middleware next to the one in use
