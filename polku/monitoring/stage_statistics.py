"""The statistics of stages: their middleware, the models that it calls, new middleware next to it, and their links."""

from __future__ import annotations

from collections.abc import Mapping

from polku.histogram import Distribution
from polku.monitoring.tree import Tree


class ErrorStatistics(Tree, frozen=True, kw_only=True):
    """One of the latest errors of a part: what it said, how often, and when last, in Unix nanoseconds."""

    text: str
    count: int
    time_ns: int


class LinkStatistics(Tree, frozen=True, kw_only=True):
    """What leads from a part to the next: `events` have no answer yet, the first has been in the pipeline for so long.

    `sent` and `resent` count batches.
    """

    events: int
    oldest_age_seconds: float
    sent: int
    resent: int


class CallStatistics(Tree, frozen=True, kw_only=True):
    """The calls of a model, each with events of many batches: `events` and `seconds` of each, of `max_events` at most.

    `full` left complete, `aged` when their first event had waited long enough; `fill` is the share of `max_events` that
    they had on average. `retries` were made again. Now `waiting` events are in no call, and `in_flight` calls run.
    """

    max_events: int
    full: int
    aged: int
    fill: float
    retries: int
    waiting: int
    in_flight: int
    events: Distribution
    seconds: Distribution


class DifferenceStatistics(Tree, frozen=True, kw_only=True):
    """One event of which new middleware made something else than the one in use.

    `result` is a key of `counts`; `text` names the fields that differ, or says why it failed.
    """

    event_id: str
    result: str
    text: str
    time_ns: int


class CandidateStatistics(Tree, frozen=True, kw_only=True):
    """New middleware (`candidate`) next to `middleware` that is in use.

    In `mode` `shadow`, `counts` has the events that it saw: `same`, `different`, `dropped` (by one of the two alone),
    `failed` and `skipped` (it was busy); `latest` are the latest differences, the latest first, `seconds` how long it
    has been at work on what it works on now, and `fault` why it does not work. In mode `canary` the `counts` are the
    events that went to either side, and those that were dropped and refused there: `old`, `old_dropped`, `old_refused`,
    `new`, `new_dropped` and `new_refused`. The `share` (0 to 1) of the events is chosen by `key`.
    """

    mode: str
    middleware: str
    candidate: str
    share: float
    key: str
    counts: Mapping[str, int]
    latest: tuple[DifferenceStatistics, ...]
    seconds: float
    fault: str


class StageStatistics(Tree, frozen=True, kw_only=True):
    """Neighbouring middleware: `type` names them.

    `discarded` counts events by what middleware is there for (`filtered`, `sampled_out`, `deduplicated`,
    `rate_limited`); `dead` are those on which it failed; `held` are kept back now, as by an Aggregator. `busy_with` is
    the middleware at work, `busy_seconds` since when. `work_seconds` is how long it has been at work in all,
    `utilization` the share of the latest seconds, `wait_seconds` how long events waited for their turn. `errors` are
    the latest few, the latest first. `calls` is there where it is a model that is called with events of many batches,
    `candidates` where there is new middleware next to the one in use.
    """

    type: str
    batches: int
    received: int
    sent: int
    discarded: Mapping[str, int]
    dead: int
    held: int
    busy_with: str
    busy_seconds: float
    work_seconds: float
    utilization: float
    wait_seconds: Distribution
    fault: str
    link: LinkStatistics | None
    errors: tuple[ErrorStatistics, ...]
    calls: CallStatistics | None = None
    candidates: tuple[CandidateStatistics, ...] = ()
