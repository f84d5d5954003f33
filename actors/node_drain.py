"""Empty the lane of a node that Ray is going to take away, before it does.

Ray marks a node as draining where its machine is about to be preempted, or an operator says so (`ray drain-node`), and
names a time by which everything has to have left it. The lane takes no connections any more and asks its clients to
connect elsewhere (GOAWAY), refuses what is new, and empties its stages and outlets. What cannot be delivered in time
stays in the node's journal, or, of a buffer in memory, is lost; the log says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import NamedTuple

import ray.exceptions

from polku.actors.drain import answer_within, close, drain, look, outcome, release
from polku.actors.handles import ActorHandles, LaneHandles
from polku.buffer.strategy import Kind
from polku.plan import Plan
from polku.runtime.drain import drain_seconds
from polku.runtime.lane import LaneStatistics
from polku.runtime.report import EmitterReport, StopReport, stop_report
from polku.runtime.standstill import drain_within

_LOG = logging.getLogger(__name__)
_MARGIN_SECONDS = 5.0  # before Ray's deadline: for what is in flight, for closing, and for the end of the processes
_CLOSE_SECONDS = 5.0
_GOODBYE_SHARE = 0.3  # of the time: for clients to have their answers and connect elsewhere


class Departure(NamedTuple):
    """What became of a lane that has left its node; `is_lost` where acknowledged events are gone with it, or may be.

    `emitters` has what it has done; what stays in its journal is counted where that is opened again.
    """

    text: str
    is_lost: bool
    emitters: Mapping[str, EmitterReport]


def seconds_left(deadline: float, now: float, environment: Mapping[str, str]) -> float:
    """Return how long the drain of a node's lane may take; `deadline` is Ray's, in seconds since 1970, or infinite.

    Without a deadline it is what any drain of the pipeline may take.
    """
    if math.isinf(deadline):
        return drain_seconds(None, environment)
    return max(deadline - now - _MARGIN_SECONDS, 0.0)


async def leave_node(plan: Plan, lane: LaneHandles, parts: ActorHandles, deadline: float) -> Departure:
    """Empty a lane and close it; return what became of its events. Raises what Ray raises where the lane is lost."""
    started, durable = time.monotonic(), plan.buffer.kind is Kind.DURABLE
    seconds = seconds_left(deadline, time.time(), os.environ)
    _LOG.info("%s leaves node %s, which Ray drains: it has %.0f s", lane.door, lane.address, seconds)
    own = ActorHandles((lane,), parts.shared)
    await answer_within(seconds * _GOODBYE_SHARE, lane.ingest.leave_doors)

    async def look_at_lane() -> list[LaneStatistics]:
        try:
            return await look(own)
        except ray.exceptions.RayError:
            return []

    left = max(seconds - (time.monotonic() - started), 0.0)
    complete = await drain_within(left, drain(own), look_at_lane if durable else None)
    if not complete:
        await release(own)
    emitters, silent = await outcome(plan, own)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(close(ActorHandles((lane,), {})), _CLOSE_SECONDS)
    report = stop_report(plan, emitters, complete=complete, seconds=time.monotonic() - started, silent=silent)
    return _departure(plan, lane, emitters, report)


def _departure(plan: Plan, lane: LaneHandles, emitters: Mapping[str, EmitterReport], report: StopReport) -> Departure:
    what = f"{lane.door} has left node {lane.address} within {report.seconds:.1f} s"
    done = {name: each._replace(journaled=0) for name, each in emitters.items()}
    if report.loss:
        return Departure(f"{what}: {report.loss}", True, done)
    kept = {name: each.journaled for name, each in emitters.items() if each.journaled}
    if kept:
        counts = ", ".join(f"{count} for {name}" for name, count in kept.items())
        text = f"{what}: events are kept in its journal {plan.buffer.path} on that node ({counts}) until it is back"
        return Departure(text, False, done)
    left = ", ".join(f"{each.left} for {name}" for name, each in emitters.items() if each.left)
    if left:
        return Departure(
            f"{what}: the events that it still held are lost; none of them was promised to anybody ({left})",
            False,
            done,
        )
    return Departure(f"{what}: everything is delivered" if report.complete else f"{what}: nothing is left", False, done)
