"""The number of a stage's replicas changes while the pipeline runs, in every lane.

Those that come are created and started first; where one does not start, nothing was changed. Then the part that hands
batches to them, which keeps their order, is told (what it is made of is kept first, see `kept`). Those that go, of the
highest numbers, get nothing more; they end once what they have is worked on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from polku.actors.actor_factory import ActorFactory, LaneFactory, Layout, shared_arguments
from polku.actors.asking import ask, begin
from polku.actors.drain import kill
from polku.actors.handles import LaneHandles
from polku.actors.kept import keep
from polku.actors.lane_change import end_actors
from polku.actors.nodes import LanePlace
from polku.actors.shell import pack
from polku.actors.target import workers_of
from polku.errors import ChangeError, PolkuError
from polku.plan import Plan, StagePlan
from polku.text import counted, named

_LOG = logging.getLogger(__name__)
_END_SECONDS = 60.0  # for the batches of replicas that go
_LOOK_SECONDS = 0.02


class _Holder(NamedTuple):
    """The part that hands batches to replicas: its name, that of its actor, its handle, and what it is made of."""

    part: str
    actor: str
    handle: Any
    arguments: tuple[object, ...]


class Resizing:
    """Give a stage another number of replicas."""

    def __init__(self, factory: ActorFactory, plan: Plan, stage: str, numbers: Callable[[], int]) -> None:
        self._factory = factory
        self._numbers = numbers
        self._before = next(each for each in factory.layout.plan.stages if each.name == stage)
        self._stage = next(each for each in plan.stages if each.name == stage)
        fresh = set(workers_of(self._stage)) - set(workers_of(self._before))
        self.layout = factory.layout.renewed(plan, fresh, numbers())
        self._fresh: dict[int, dict[str, Any]] = {}  # by lane and part

    async def run(self, seconds: float) -> Mapping[str, Any]:
        """Do it; return the actors that go, by part. Raises `ChangeError`, and then all is as it was.

        New replicas have `seconds` to start.
        """
        before = self._factory.layout
        try:
            await self._create(seconds)
        except BaseException:
            self._discard()
            raise
        try:
            await self._tell(self.layout, _END_SECONDS)
        except BaseException as error:
            await self._take_back(before, error)
            raise
        going: dict[str, Any] = {}
        for lane, place in self._factory.lanes:
            known = {**lane.stages, **self._fresh.get(lane.number, {})}
            own = [part for each in self.layout.plan.stages for part in workers_of(each) if part in known]
            going |= {f"{lane.name}{part}": handle for part, handle in known.items() if part not in own}
            self._factory.exchange(lane._replace(stages={part: known[part] for part in own}), place)
        self._factory.become(self.layout, dict(self._factory.parts().shared))
        return going

    async def _create(self, seconds: float) -> None:
        """Create and start, in every lane, the replicas that come."""
        starting: list[Awaitable[int]] = []
        for lane, place in self._factory.lanes:
            factory = LaneFactory(self.layout, lane.number, place)
            own = self._fresh[lane.number] = {}
            for part in workers_of(self._stage):
                if part not in lane.stages:
                    own[part] = await asyncio.to_thread(factory.create_worker, self._stage, part)
                    starting.append(begin(f"{lane.name}{part}", own[part], seconds))
        results = await asyncio.gather(*starting, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _discard(self) -> None:
        kill(handle for parts in self._fresh.values() for handle in parts.values())

    async def _tell(self, layout: Layout, seconds: float) -> None:
        """Have batches go to the replicas of a layout; return when no other has any. Raises `ChangeError`."""
        number, deadline = self._numbers(), time.monotonic() + seconds
        holders = _holders(self._factory, layout, self._stage)
        for holder in holders:
            await asyncio.to_thread(keep, holder.actor, number, pack(*holder.arguments))
        while True:
            asked = [ask(h.part, h.handle.resize, number, pack(*h.arguments)) for h in holders]
            left = sum(await asyncio.gather(*asked))
            if not left:
                return
            if time.monotonic() > deadline:
                reason = f"replicas of {self._stage.name} that were to go still had {counted(left, 'batch')}"
                raise ChangeError([f"{reason} after {seconds:g} s"])
            await asyncio.sleep(_LOOK_SECONDS)

    async def _take_back(self, before: Layout, reason: BaseException) -> None:
        """Have batches go to the replicas that there were; those that came end once they have none."""
        try:
            await self._tell(before, _END_SECONDS)
        except PolkuError as error:  # what is kept says which there were; those that came do no harm
            text = "new replicas of %s, which were not put to use (%s), stay until the pipeline ends: %s"
            _LOG.error(text, self._stage.name, named(reason), named(error))
        else:
            await end_actors({f"{n}/{part}": h for n, parts in self._fresh.items() for part, h in parts.items()})


def _holders(factory: ActorFactory, layout: Layout, stage: StagePlan) -> list[_Holder]:
    """Return the parts that hand batches to the replicas of a stage, those of each lane, or those that all share."""
    holder = _before(layout.plan, stage)
    if holder is None or not holder.shared:
        return [each for lane, place in factory.lanes for each in _holders_in(layout, holder, lane, place)]
    handles, name = factory.parts().shared, layout.names.shared
    return [_Holder(p, name(p), handles[p], shared_arguments(layout, holder, p)) for p in workers_of(holder)]


def _holders_in(layout: Layout, holder: StagePlan | None, lane: LaneHandles, place: LanePlace) -> list[_Holder]:
    factory = LaneFactory(layout, lane.number, place)
    if holder is not None:
        parts = {part: factory.stage_arguments(holder, part) for part in workers_of(holder)}
        return [_Holder(f"{lane.name}{p}", factory.name(p), lane.stages[p], made_of) for p, made_of in parts.items()]
    if lane.chained:
        return [_Holder(lane.door, factory.name("lane"), lane.ingest, factory.lane_arguments())]
    return [_Holder(lane.door, factory.name("ingest"), lane.ingest, factory.ingest_arguments())]


def _before(plan: Plan, stage: StagePlan) -> StagePlan | None:
    """Return the stage whose actor hands batches to the replicas of another; None: that with the intake does."""
    names = [each.name for each in plan.stages]
    for other in reversed(plan.stages[: names.index(stage.name)]):
        if other.replicated:
            continue
        return other if other.apart or not plan.chained else None
    return None
