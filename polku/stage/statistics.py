"""What a stage counts of its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from polku.batch.fates import Attribution
from polku.batch.receipt import Counts
from polku.busy import Busy, WorkTime
from polku.clock import Clock
from polku.contracts import CallShape, Outcome, Step
from polku.dead_letters import DeadLetterStatistics
from polku.event.v1.event_pb2 import Event
from polku.histogram import Distribution, Histogram
from polku.link.link import LinkStatistics
from polku.recent_errors import RecentErrors, SeenError


class CandidateDifference(Struct, frozen=True):
    """One event of which new middleware made something else: its id, a key of `counts`, what differs, and when."""

    event_id: str
    result: str
    text: str
    time_ns: int


class CandidateCounts(Struct, frozen=True):
    """What new middleware does next to the one in use.

    In `mode` `shadow` it works on copies of a share of the events, and `counts` has the events by what it made of them:
    `same`, `different`, `dropped` (by one of the two alone), `failed`, and `skipped` (it was busy). In mode `canary` it
    gets the share itself, and `counts` has the events that went to either side, and what was dropped and refused there:
    `old`, `old_dropped`, `old_refused`, `new`, `new_dropped` and `new_refused`. `latest` are differences, the latest
    first; `seconds` is how long a shadow has been at work on what it works on now; `fault` says why it does not work.
    """

    mode: str
    middleware: str
    candidate: str
    share: float
    key: str
    counts: Mapping[str, int]
    latest: Sequence[CandidateDifference] = ()
    seconds: float = 0.0
    fault: str = ""


class StageStatistics(Struct, frozen=True):
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
    work: WorkTime = WorkTime()
    waits: Distribution = Distribution()  # how long batches waited for their turn, weighted by events
    calls: CallShape | None = None  # of a step that is called with events of many batches
    candidates: Sequence[CandidateCounts] = ()  # new middleware next to the one in use


class StageCounters:
    """Count what one stage does with batches and events, and note at which step it is."""

    def __init__(self, clock: Clock) -> None:
        self.batches = self.received = self.forwarded = self.dead = 0
        self.counts: dict[str, int] = {}  # events that are gone, by the reason of the step that dropped them
        self.step, self.since = "", 0.0
        self.errors = RecentErrors()
        self.busy = Busy(clock.monotonic)
        self.waits = Histogram()

    def count(self, step: Step, events: list[Event], outcome: Outcome, attribution: Attribution | None) -> None:
        """Count what a step refused and dropped of the events that it was given."""
        if outcome.refused:
            self.dead += len(outcome.refused)
        if outcome.events is not events:
            gone = len(events) - len(outcome.events) - len(outcome.refused) if attribution is None else attribution.gone
            if gone > 0:
                self.counts[step.drop_reason] = self.counts.get(step.drop_reason, 0) + gone

    def statistics(
        self, held: int, fault: str, link: LinkStatistics | None, candidates: Sequence[CandidateCounts]
    ) -> StageStatistics:
        """Return a snapshot, with what others know of the stage."""
        return StageStatistics(
            self.batches,
            self.received,
            self.forwarded,
            self.dead,
            held,
            Counts(**self.counts),
            self.step,
            self.since,
            fault,
            errors=self.errors.latest(),
            link=link,
            work=self.busy.work(),
            waits=self.waits.distribution(),
            candidates=tuple(candidates),
        )
