"""The end of a pipeline: its lanes drain side by side, and one that does not answer takes nothing from the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable
from typing import Any

import ray.exceptions

from polku.actors.handles import ActorHandles, LaneHandles
from polku.plan import Plan
from polku.runtime.lane import RELEASE_SECONDS, LaneStatistics
from polku.runtime.report import EmitterReport, add_up, report_outcome

_LOG = logging.getLogger(__name__)
_FLUSH_SECONDS = 1.0  # how long to wait for one part to let go, before it is asked again
_REPORT_SECONDS = 5.0
_AGAIN_SECONDS = 0.2
_BACK_SECONDS = 2.0  # how long to wait for a part that is to be closed, and is away


async def drain(parts: ActorHandles) -> None:
    """Refuse what is new, flush the stages, empty the outlets, close the doors; raises what a lane failed with."""
    taking = [asyncio.ensure_future(insist(lane.ingest.drain_ingest)) for lane in parts.lanes]
    pairs = zip(parts.lanes, taking, strict=True)
    lanes = [asyncio.ensure_future(_drain_lane(lane, taken)) for lane, taken in pairs]
    flushed = [*parts.stages(), *(lane.buffer for lane in parts.lanes)]
    try:
        while not all(taken.done() for taken in taking):
            # Inputs of a holder are only answered when it lets go, so stages are flushed while the ingest drains.
            await asyncio.gather(*(answer_within(_FLUSH_SECONDS, stage.flush) for stage in flushed))
            await asyncio.wait(taking, timeout=0.05)
        await asyncio.wait(lanes)
    finally:
        for task in (*taking, *lanes):
            task.cancel()
        results = await asyncio.gather(*taking, *lanes, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def release(parts: ActorHandles) -> None:
    """Take note of what is confirmed of what is in flight, when the time is up."""
    await asyncio.gather(*map(_release, parts.lanes))


async def look(parts: ActorHandles) -> list[LaneStatistics]:
    """Return what every lane has counted, without its stages; raises `RayError` where a part does not answer."""
    return list(await asyncio.gather(*map(_look_at, parts.lanes)))


async def outcome(plan: Plan, parts: ActorHandles) -> tuple[dict[str, EmitterReport], list[str]]:
    """Add up what became of the events of every lane that answers, by emitter; return that and who did not answer."""
    seen = await asyncio.gather(*(answer_within(_REPORT_SECONDS, lane.buffer.statistics) for lane in parts.lanes))
    silent = [lane.door for lane, statistics in zip(parts.lanes, seen, strict=True) if statistics is None]
    if silent:
        _LOG.warning("what became of the events of %s is not known: no answer", ", ".join(silent))
    buffers = [s.buffer if isinstance(s, LaneStatistics) else s for s in seen if s is not None]
    reports = [report_outcome(plan, statistics.outlets) for statistics in buffers]
    return {name: add_up([report[name] for report in reports]) for name in reports[0]} if reports else {}, silent


async def vanished(supervisor: Any) -> dict[str, int]:
    """Ask the supervising actor how many events died with buffers in memory, by emitter; nothing without an answer."""
    counted: dict[str, int] | None = await answer_within(_REPORT_SECONDS, supervisor.vanished)
    return counted or {}


async def close(parts: ActorHandles) -> None:
    """Close the lanes, each from the front to the back, and then what they share."""
    await asyncio.gather(*(_close_all(lane.all().values()) for lane in parts.lanes))
    await _close_all(parts.shared.values())


def kill(handles: Iterable[Any]) -> None:
    """End actors for good."""
    for handle in handles:
        ray.kill(handle, no_restart=True)


async def call(ref: Any) -> Any:
    """Return an actor's answer, in a coroutine as asyncio's functions want it."""
    return await ref


async def insist(method: Any, *arguments: object, back_within: float = math.inf) -> Any:
    """Return an actor's answer; one that is on its way back, or whose message was lost, is asked again."""
    deadline = time.monotonic() + back_within
    while True:
        try:
            return await call(method.remote(*arguments))
        except ray.exceptions.ActorUnavailableError as error:
            if time.monotonic() > deadline:
                raise
            _LOG.info("an actor that is on its way back is asked again: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)


async def answer_within(seconds: float, method: Any, *arguments: object) -> Any:
    """Return an actor's answer; None where it does not come in time. A message that is lost is sent again."""
    try:
        return await asyncio.wait_for(insist(method, *arguments), seconds)
    except (TimeoutError, ray.exceptions.RayError):
        return None


async def _drain_lane(lane: LaneHandles, taken: asyncio.Future[None]) -> None:
    await asyncio.wait([taken])
    taken.result()
    await insist(lane.buffer.drain_buffer)
    await insist(lane.ingest.close_doors, 1.0)  # until here it told clients that the pipeline is draining


async def _release(lane: LaneHandles) -> None:
    if lane.chained:
        await answer_within(2 * RELEASE_SECONDS, lane.ingest.release)
        return
    await answer_within(RELEASE_SECONDS, lane.buffer.halt)
    await asyncio.gather(*(answer_within(RELEASE_SECONDS, emitter.release) for emitter in lane.emitters.values()))
    await answer_within(RELEASE_SECONDS, lane.buffer.settled)


async def _look_at(lane: LaneHandles) -> LaneStatistics:
    if lane.chained:
        seen: LaneStatistics = await lane.ingest.statistics.remote()
        return seen
    calls = [lane.ingest, lane.buffer, *lane.emitters.values()]
    intake, buffer, *emitters = await asyncio.gather(*(call(handle.statistics.remote()) for handle in calls))
    return LaneStatistics(intake, {}, buffer, dict(zip(lane.emitters, emitters, strict=True)))


async def _close_all(handles: Iterable[Any]) -> None:
    for handle in handles:
        with contextlib.suppress(ray.exceptions.RayError):
            await insist(handle.close, back_within=_BACK_SECONDS)
