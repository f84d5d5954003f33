"""Lanes that come and go while a pipeline runs, one after the other.

New lanes are created, and what is behind their ingest is started, before anything else changes; they are parts before
they take anything in. One that does not open, or is not well a second later, goes again, and so do those before it.

Lanes that go ask their clients to connect elsewhere, one after the other, while the others are watched: where one of
these becomes unhealthy, all come back. Then each is emptied, for as long as that takes: it is a part until everything
is delivered, so nothing stays behind in its journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import ray.exceptions

from polku.actors.actor_factory import ActorFactory, LaneFactory, Layout
from polku.actors.asking import ask, begin
from polku.actors.drain import answer_within, insist, kill, outcome
from polku.actors.handles import ActorHandles, LaneHandles
from polku.actors.kept import forget_farewell
from polku.actors.lane_change import START_SECONDS, end_actors
from polku.actors.levelling import level
from polku.actors.nodes import LanePlace, evenly, this_node, workers
from polku.aio.tasks import TaskSet
from polku.buffer.statistics import BufferStatistics
from polku.emit.delivery import DeliveryStatistics
from polku.errors import ChangeError, PolkuError
from polku.plan import Plan
from polku.runtime.lane import LaneStatistics
from polku.runtime.watch import trouble

_LOG = logging.getLogger(__name__)
_WATCH_SECONDS = 1.0  # for a lane to become unhealthy before the next one comes or goes
_LOOK_SECONDS = 10.0
_GOODBYE_SECONDS = 10.0  # for clients of a lane that goes, before the next one takes leave of its own
_FLUSH_SECONDS = 1.0
_LEVELS = "connections are spread"
_EMPTY_SECONDS = 0.2  # between two looks at whether a lane is empty


class Placed(NamedTuple):
    """A lane, and where it is."""

    lane: LaneHandles
    place: LanePlace


Open = Callable[[LaneHandles, LanePlace], Awaitable[None]]
"""Start a lane's ingest, open its doors, and say who supervises it."""


class Lanes:
    """Add and remove lanes of one pipeline; `on_parts` is awaited where there are others."""

    def __init__(self, factory: ActorFactory, open_lane: Open, on_parts: Callable[[], Awaitable[None]]) -> None:
        self._factory = factory
        self._open_lane = open_lane
        self._on_parts = on_parts
        self._tasks = TaskSet("lanes")

    async def stop(self) -> None:
        """Empty no more lanes: they are parts, and drain with the others."""
        await self._tasks.close()

    async def prepare(self, layout: Layout, count: int) -> list[Placed]:
        """Create the lanes that are missing, and start what is behind their ingests; raises `ChangeError`."""
        fresh: list[Placed] = []
        try:
            for place in await self._places(layout.plan, count):
                creating = asyncio.ensure_future(asyncio.to_thread(self._factory.create_lane, place, layout))
                try:
                    await asyncio.shield(creating)
                finally:
                    fresh.append(Placed(await creating, place))
            behind = [(name, h) for lane, _ in fresh for name, h in lane.all().items() if name != lane.door]
            seconds = layout.plan.scaling.start_seconds
            await _all(*(begin(name, handle, seconds) for name, handle in behind))
        except BaseException:
            self.discard(fresh)
            raise
        return fresh

    async def _places(self, plan: Plan, count: int) -> list[LanePlace]:
        """Return where the lanes that are missing are to be."""
        if not plan.spread:
            node = self._factory.places[0].node
            return [LanePlace(node, number) for number in missing(self._factory.lanes, count)]
        numbers = lost(self._factory.lanes, count)
        nodes, here = await asyncio.to_thread(lambda: (workers(), this_node()))
        if numbers and not nodes:
            raise ChangeError(["no node of the cluster has CPUs, or all are leaving"])
        return evenly(nodes, here, numbers, [place for lane, place in self._factory.lanes if not lane.leaving])

    def discard(self, fresh: Sequence[Placed]) -> None:
        """End lanes that have taken nothing in."""
        kill(handle for lane, _ in fresh for handle in lane.all().values())

    async def join(self, fresh: Sequence[Placed]) -> None:
        """Have new lanes take events; raises `ChangeError`, and then none of them does."""
        joined: list[Placed] = []
        try:
            for lane, place in fresh:
                joined.append(Placed(lane, place))
                self._factory.add(lane, place)
                await self._on_parts()
                await self._tell_shared()
                await self._open_lane(lane, place)
                await asyncio.sleep(_WATCH_SECONDS)
                for part, why in (await _unhealthy([lane])).items():
                    raise ChangeError([f"{part} is unhealthy: {why}"])
        except BaseException as error:
            self.discard(fresh[len(joined) :])
            for lane, place in joined:
                await self._take_back(lane, place)
            if isinstance(error, ray.exceptions.RayError):
                raise ChangeError([f"{joined[-1].lane.door} does not start: {_first_line(error)}"]) from error
            raise

    async def _take_back(self, lane: LaneHandles, place: LanePlace) -> None:
        """Remove a lane that was just added; one that has not opened holds nothing."""
        try:
            await self._say_goodbye(lane, place)
        except (PolkuError, ray.exceptions.RayError):
            self._factory.drop(lane)
            await self._on_parts()
            kill(lane.all().values())
        else:
            self._empty_soon(lane)

    def level(self, fresh: Sequence[Placed]) -> None:
        """Give lanes that have joined their share of the connections that there are, behind the pipeline's back."""
        if fresh:
            numbers = frozenset(lane.number for lane, _ in fresh)
            self._tasks.cancel(_LEVELS)
            self._tasks.start(_LEVELS, level(lambda: self._factory.parts().taking, numbers))

    async def leave(self, count: int) -> None:
        """Remove the lanes beyond the first `count`; raises `ChangeError`, and then all take events as before."""
        lanes = [Placed(*each) for each in self._factory.lanes if not each[0].leaving]
        going = [each for each in lanes if each.place.number > count]
        if not going:
            return
        staying = [each.lane for each in lanes if each not in going]
        before = (await _unhealthy(staying)).keys()
        left: list[Placed] = []
        try:
            for lane, place in reversed(going):
                left.append(Placed(lane, place))
                await self._say_goodbye(lane, place)
                await asyncio.sleep(_WATCH_SECONDS)
                for part, why in (await _unhealthy(staying)).items():
                    if part not in before:
                        raise ChangeError([f"{part} became unhealthy when {lane.door} took no clients: {why}"])
        except BaseException:
            for lane, place in reversed(left):
                await self._come_back(lane, place)
            raise
        for lane, _ in left:
            self._empty_soon(lane)

    async def _say_goodbye(self, lane: LaneHandles, place: LanePlace) -> None:
        """Have a lane take nothing new, and its clients connect elsewhere."""
        self._factory.exchange(lane._replace(leaving=True), place)
        await self._on_parts()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ask(lane.door, lane.ingest.leave_doors, seconds=START_SECONDS), _GOODBYE_SECONDS)

    async def _come_back(self, lane: LaneHandles, place: LanePlace) -> None:
        self._factory.exchange(lane, place)
        try:
            ingest = LaneFactory(self._factory.layout, lane.number, place).name("lane" if lane.chained else "ingest")
            await asyncio.to_thread(forget_farewell, ingest)  # also where it is away
            await ask(lane.door, lane.ingest.come_back)
            await self._open_lane(lane, place)
        except (PolkuError, ray.exceptions.RayError) as error:  # the supervisor opens it when it is back
            _LOG.error("%s does not come back: %s", lane.door, error)
        await self._on_parts()

    def _empty_soon(self, lane: LaneHandles) -> None:
        self._tasks.keep_alive(f"{lane.door} leaves", partial(self._empty, lane.number))

    async def _empty(self, number: int) -> None:
        """Return when a lane has delivered what it has, and is no more."""
        taken: asyncio.Future[None] | None = None
        try:
            while (lane := self._lane(number)) is not None:  # a change may have given it other stages
                taken = taken or asyncio.ensure_future(insist(lane.ingest.drain_ingest))
                shared = self._factory.parts().shared.values()
                flushed = (*lane.stages.values(), *shared, lane.buffer)
                await asyncio.gather(*(answer_within(_FLUSH_SECONDS, part.flush) for part in flushed))
                if taken.done() and await self._is_empty(lane, shared):
                    taken.result()
                    break
                await asyncio.sleep(_EMPTY_SECONDS)
        finally:
            if taken is not None:
                taken.cancel()
        async with self._factory.changing:
            if (lane := self._lane(number)) is not None:
                await self._end(lane)

    async def _is_empty(self, lane: LaneHandles, shared: Collection[Any]) -> bool:
        """Return whether a lane has delivered what it has, and stages that it shares bring nothing more.

        What they make of several batches goes to any lane that stays, once they are told which do.
        """
        if not await self._tell_shared():
            return False
        for stage in shared:
            if await answer_within(_FLUSH_SECONDS, stage.open_for, lane.number) != 0:
                return False
        seen = await answer_within(_FLUSH_SECONDS, lane.buffer.statistics)
        buffer: BufferStatistics | None = seen.buffer if isinstance(seen, LaneStatistics) else seen
        return buffer is not None and not any(outlet.lag for outlet in buffer.outlets.values())

    async def _tell_shared(self) -> bool:
        """Tell the stages that lanes share which there are, as the supervisor does; return whether all have heard."""
        lanes = self._factory.parts().lanes
        known = frozenset(each.number for each in lanes), frozenset(each.number for each in lanes if each.leaving)
        shared = self._factory.parts().shared.values()
        told = [await answer_within(_FLUSH_SECONDS, stage.serve, *known) for stage in shared]
        return all(each is not None for each in told)

    async def _end(self, lane: LaneHandles) -> None:
        """Take a lane out of the parts, and end its actors."""
        plan = self._factory.layout.plan
        reports, _ = await outcome(plan, ActorHandles((lane,), {}))
        self._factory.count_gone(reports)
        self._factory.drop(lane)
        await self._on_parts()
        await end_actors(lane.all() if not lane.chained else {lane.door: lane.ingest, **lane.stages})
        delivered = ", ".join(f"{report.delivered} by {name}" for name, report in reports.items())
        _LOG.info("%s is gone: everything is delivered (%s)", lane.door, delivered)

    def _lane(self, number: int) -> LaneHandles | None:
        return next((lane for lane, _ in self._factory.lanes if lane.number == number), None)


def missing(lanes: Sequence[tuple[LaneHandles, LanePlace]], count: int) -> list[int]:
    """Return the numbers of the lanes that `count` lanes lack; raises `ChangeError` where one of these still leaves."""
    taken = {place.number: lane for lane, place in lanes}
    wanted = []
    for number in range(1, count + 1):
        lane = taken.get(number)
        if lane is None:
            wanted.append(number)
        elif lane.leaving:
            raise ChangeError([f"{lane.name.rstrip('/')} is gone, and still delivers what waits for it"])
    return wanted


def lost(lanes: Sequence[tuple[LaneHandles, LanePlace]], count: int) -> list[int]:
    """Return the numbers that no lane has of `count` that are spread over nodes, those that leave apart.

    Nothing of a former lane is on a disk, so another one may have its number before that is gone.
    """
    taken = {place.number for lane, place in lanes if not lane.leaving}
    return [number for number in range(1, count + 1) if number not in taken]


async def _unhealthy(lanes: Sequence[LaneHandles]) -> dict[str, str]:
    """Return what is wrong with parts of lanes, by their names."""
    parts = {name: handle for lane in lanes for name, handle in lane.all().items()}
    found: dict[str, str] = {}

    async def look(name: str, handle: Any) -> None:
        try:
            why = _wrong(await ask(name, handle.statistics, seconds=_LOOK_SECONDS))
        except PolkuError as error:
            why = str(error)
        if why:
            found[name] = why

    await asyncio.gather(*(look(name, handle) for name, handle in parts.items()))
    return found


def _wrong(statistics: Any) -> str:
    match statistics:
        case LaneStatistics():
            faults = [f"{name}: {why}" for name, each in statistics.emitters.items() if (why := trouble(each))]
            return "; ".join([*faults, *(stage.fault for stage in statistics.stages.values() if stage.fault)])
        case DeliveryStatistics():
            return trouble(statistics)
        case _:
            return str(getattr(statistics, "fault", ""))


async def _all(*work: Awaitable[Any]) -> None:
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "cause", None) or error).partition("\n")[0]
