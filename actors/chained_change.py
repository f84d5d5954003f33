"""Lanes that are one actor each take another plan while they run, each inside of its actor, one after the other.

One that cannot change, or becomes unhealthy, is taken back, and so are those before it. Emitters that are gone leave
last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from msgspec import structs

from polku.actors.actor_factory import ActorFactory, LaneFactory, Layout
from polku.actors.asking import ask
from polku.actors.handles import LaneHandles
from polku.actors.kept import keep
from polku.actors.lane_change import StuckError
from polku.actors.nodes import LanePlace
from polku.actors.shell import pack
from polku.change.contents import Contents
from polku.change.difference import Difference, PartVerdict, difference
from polku.errors import ChangeError
from polku.runtime.changing import Changed, built_anew
from polku.runtime.lane import LaneStatistics
from polku.runtime.watch import trouble

_LANE_SECONDS = 120.0  # for new parts to start in a lane's actor
_LOOK_SECONDS = 10.0
_WATCH_SECONDS = 1.0  # for a lane to become unhealthy before the next one changes


class ChainedChange:
    """Change a pipeline of chained lanes."""

    def __init__(
        self, factory: ActorFactory, old: Contents, new: Contents, seconds: float, numbers: Callable[[], int]
    ) -> None:
        self._factory = factory
        self._old, self._new = old, new
        self._seconds = seconds
        self._numbers = numbers
        self.layout = factory.layout.renewed(new.plan, (), 0)

    async def run(self, found: Difference) -> Changed:
        """Change every lane; raises `ChangeError`, and then all is as it was."""
        gone = found.named("emitter", PartVerdict.GONE)
        between = _with_emitters(self._new, self._old, gone)
        first = difference(self._old, between)
        done: list[tuple[LaneHandles, LanePlace]] = []
        changes = []
        try:
            for lane, place in self._factory.lanes:
                if done:
                    await asyncio.sleep(_WATCH_SECONDS)
                    await _check(done[-1][0], built_anew(found))
                changes.append(await self._change(lane, place, self._old, between, first))
                done.append((lane, place))
        except ChangeError as error:
            await self._take_back(done, between, error)
            raise
        if gone:
            last = difference(between, self._new)
            for lane, place in done:
                await self._change(lane, place, between, self._new, last)
        emitters = [outlet.name for outlet in self._new.plan.outlets]
        for lane, place in done:
            self._factory.exchange(lane._replace(emitters=dict.fromkeys(emitters, lane.ingest)), place)
        return _summed(found, changes)

    async def _change(
        self, lane: LaneHandles, place: LanePlace, old: Contents, new: Contents, found: Difference
    ) -> Changed:
        factory = LaneFactory(self._layout_of(new), lane.number, place)
        own = factory.name("lane")
        change = pack(_of_lane(old, lane, place), _of_lane(new, lane, place), found)
        packed = pack(factory.plan, factory.workers(), place.is_first)
        number = self._numbers()
        await asyncio.to_thread(keep, own, number, packed)
        try:
            changed: Changed = await ask(
                lane.door, lane.ingest.change, number, packed, change, self._seconds, seconds=_LANE_SECONDS
            )
        except ChangeError:
            before = LaneFactory(self._layout_of(old), lane.number, place)
            await asyncio.to_thread(keep, own, self._numbers(), pack(before.plan, before.workers(), place.is_first))
            raise
        return changed

    async def _take_back(
        self, done: list[tuple[LaneHandles, LanePlace]], between: Contents, error: ChangeError
    ) -> None:
        back = difference(between, self._old)
        for lane, place in reversed(done):
            try:
                await self._change(lane, place, between, self._old, back)
            except ChangeError as again:
                reasons = f"{lane.door} could not be taken back: {'; '.join(again.reasons)}"
                raise StuckError([*error.reasons, reasons]) from again

    def _layout_of(self, contents: Contents) -> Layout:
        return self._factory.layout.renewed(contents.plan, (), 0)


def _with_emitters(contents: Contents, other: Contents, names: list[str]) -> Contents:
    """Return a plan with emitters of another one too."""
    more = tuple(replace(outlet, formerly=None) for outlet in other.plan.outlets if outlet.name in names)
    emitters = {**contents.emitters, **{name: other.emitters[name] for name in names}}
    plan = replace(contents.plan, outlets=(*contents.plan.outlets, *more))
    return structs.replace(contents, plan=plan, emitters=emitters)


def _of_lane(contents: Contents, lane: LaneHandles, place: LanePlace) -> Contents:
    return structs.replace(contents, plan=contents.plan.lane(lane.number, place.number), memory={})


async def _check(lane: LaneHandles, fresh: list[str]) -> None:
    """Raise `ChangeError` where a lane, or an emitter that is new there, is not well."""
    statistics: LaneStatistics = await ask(lane.door, lane.ingest.statistics, seconds=_LOOK_SECONDS)
    for name, delivery in statistics.emitters.items():
        if name in fresh and (why := trouble(delivery)):
            raise ChangeError([f"{lane.name}emitter {name!r} is unhealthy: {why}"])
    for name, stage in statistics.stages.items():
        if stage.fault:
            raise ChangeError([f"{lane.name}{name} is unhealthy: {stage.fault}"])


def _summed(found: Difference, changes: list[Changed]) -> Changed:
    """Return the longest waits of all lanes, and the sums of what emitters get again."""
    seconds: dict[str, float] = {}
    again: dict[str, int] = {}
    for changed in changes:
        for name, value in changed.emitters_seconds.items():
            seconds[name] = max(value, seconds.get(name, 0.0))
        for name, count in changed.again.items():
            again[name] = again.get(name, 0) + count
    return Changed(found, max((c.stages_seconds for c in changes), default=0.0), seconds, again)
