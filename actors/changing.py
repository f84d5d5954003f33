"""A pipeline of actors takes another plan while it runs.

What is new is created and started next to what runs, in every lane; where that fails nothing was changed. Then one lane
after the other changes, or all at once where they share stages:

1. Where stages get new actors the ingest sends nothing until every batch that it has sent has its answer. State of
   middleware moves to where it goes on.
2. The buffer gets its new outlets, in the journal first; the ingest, and stages that stay, learn where batches go now.
3. Outlets of emitters with new actors stop, hear what became of what is in flight, and go on with these from there.

A lane that cannot change, or becomes unhealthy, is taken back, and so are those that were changed before it: their old
actors are there until all lanes have changed. Emitters that are gone leave last: they deliver what waits for them.

What a part is made of is kept in Ray's store (see `kept`) before it is told, so that one that dies meanwhile begins
with that, and the change goes on. A part that is told twice does nothing the second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from polku.actors.actor_factory import ActorFactory, Layout, create_shared, shared_arguments
from polku.actors.asking import ask, begin
from polku.actors.departures import Departures
from polku.actors.kept import keep
from polku.actors.lane_change import (
    START_SECONDS,
    Direction,
    LaneChange,
    Side,
    StuckError,
    end_actors,
    until_done,
)
from polku.actors.names import same
from polku.actors.shell import pack
from polku.actors.staying import Heir, heirs, noted, staying
from polku.actors.target import workers_of
from polku.change.contents import Contents
from polku.change.difference import Difference, PartVerdict, difference, only_lanes, renames
from polku.errors import ChangeError, PolkuError
from polku.runtime.changing import Changed, built_anew
from polku.text import named

_WATCH_SECONDS = 1.0  # for a lane to become unhealthy before the next one changes


class Wish(NamedTuple):
    """What is to change: the plans before and after, and how they differ."""

    old: Contents
    new: Contents
    found: Difference
    seconds: float

    @property
    def is_about_lanes(self) -> bool:
        """Whether the lanes that there are stay as they are."""
        return _is_about_lanes(self.old, self.new, self.found)


def wish(old: Contents, new: Contents, seconds: float) -> Wish:
    """Compare two plans; raises `ChangeError` where one cannot take the other's place, and says what differs."""
    found = noted(difference(old, new), old, new, staying(old, new))
    refusals = [*found.refusals, *_refusals(old, new, found)]
    if refusals:
        found = replace(found, refusals=tuple(refusals))
        raise ChangeError(refusals, str(found))
    return Wish(old, new, found, seconds)


def _refusals(old: Contents, new: Contents, found: Difference) -> list[str]:
    apart = [stage.name for contents in (old, new) for stage in contents.plan.stages if stage.apart]
    if new.plan.chained and apart and not found.is_empty and not _is_about_lanes(old, new, found):
        reason = f"{apart[0]} of a chained lane has an actor of its own"
        return [f"{reason}: such lanes cannot be changed yet; restart the pipeline"]
    return []


def _is_about_lanes(old: Contents, new: Contents, found: Difference) -> bool:
    names = [[stage.name for stage in contents.plan.stages] for contents in (old, new)]
    return only_lanes(found) and names[0] == names[1] and staying(old, new) == set(names[0])


class PartsChange:
    """Change a pipeline of actors, none of whose lanes is chained."""

    def __init__(self, factory: ActorFactory, departures: Departures, wanted: Wish, numbers: Callable[[], int]) -> None:
        self._factory = factory
        self._wish = wanted
        self._numbers = numbers
        old, new, found, _ = wanted
        stays = staying(old, new)
        before = [stage.name for stage in old.plan.stages]
        moves = before != [stage.name for stage in new.plan.stages] or len(stays) < len(before)
        self._forth = Direction(numbers(), found, heirs(old, new, stays), renames(old.plan, new.plan), stays, moves)
        self._exchanged = built_anew(found)
        rebuilt = [stage.name for stage in new.plan.stages if stage.name not in stays]
        parts = [*rebuilt, *(f"emitter:{name}" for name in self._exchanged)]
        self.layout = factory.layout.renewed(new.plan, parts, self._forth.number)
        self.lanes = [LaneChange(departures.side(lane), place) for lane, place in factory.lanes]
        self.taken_back: list[LaneChange] = []
        self.silent: list[LaneChange] = []  # those that have yet to be told to send again, and do not answer
        self._shared_before: Mapping[str, Any] = factory.parts().shared
        self.shared: dict[str, Any] = {}
        self._fresh_shared: dict[str, Any] = {}
        self.gone = [o for o in old.plan.outlets if o.name in found.named("emitter", PartVerdict.GONE)]

    async def run(self) -> Changed:
        """Change every lane.

        Raises `ChangeError` when all is as it was, and `StuckError` when that could not be had everywhere.
        """
        try:
            await asyncio.to_thread(self._create)
            await self._start()
        except BaseException:
            await self._discard()
            raise
        pause = await self._change_lanes()
        seconds: dict[str, float] = {}
        again: dict[str, int] = {}
        for lane in self.lanes:
            for name, value in lane.seconds.items():
                seconds[name] = max(value, seconds.get(name, 0.0))
            for name, events in lane.again.items():
                again[name] = again.get(name, 0) + events
        return Changed(self._wish.found, pause, seconds, again)

    async def end(self) -> None:
        """End the actors that others have taken the place of, once nothing goes back any more."""
        await asyncio.gather(*(lane.end(self._forth) for lane in self.lanes))
        await end_actors({name: h for name, h in self._shared_before.items() if self.shared.get(name) is not h})

    def _create(self) -> None:
        plan, nodes = self._wish.new.plan, [lane.place.node for lane in self.lanes]
        for stage in plan.stages:
            if stage.shared and stage.name in self._forth.stays:
                self.shared |= {part: self._shared_before[part] for part in workers_of(stage)}
            elif stage.shared:
                self._fresh_shared |= create_shared(self.layout, stage, nodes)
                self.shared |= self._fresh_shared
        for lane in self.lanes:
            lane.create(self.layout, self._forth, self._exchanged, self.gone)

    async def _start(self) -> None:
        for name, handle in self._fresh_shared.items():
            await begin(name, handle, START_SECONDS)
            await ask(name, handle.serve, frozenset(lane.before.handles.number for lane in self.lanes))
        results = await asyncio.gather(*(lane.start(self._forth) for lane in self.lanes), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _discard(self) -> None:
        """End what was created for nothing."""
        handles = dict(self._fresh_shared)
        for lane in self.lanes:
            staying = lane.before.handles.emitters.values()  # where it was taken back, new ones too, which leave
            handles |= {n: h for n, h in lane.created.items() if not any(same(h, other) for other in staying)}
            with contextlib.suppress(PolkuError):
                await ask(f"{lane.name}ingest", lane.before.handles.ingest.discard)
        await end_actors(handles)

    async def _change_lanes(self) -> float:
        """Change one lane after the other, or all at once where they share stages; return how long batches waited."""
        at_once = self._forth.moves and bool(self._shared_before or self.shared)
        groups = [self.lanes] if at_once else [[lane] for lane in self.lanes]
        touched: list[list[LaneChange]] = []
        pause = 0.0
        try:
            for number, group in enumerate(groups, 1):
                pause = max(pause, await self._switch(group, self._forth, touched))
                if number < len(groups):
                    await asyncio.sleep(_WATCH_SECONDS)
                for lane in group:
                    await lane.check()
        except BaseException as error:
            await self._take_back(touched, error)
            await self._discard()
            raise
        return pause

    async def _switch(self, group: list[LaneChange], way: Direction, touched: list[list[LaneChange]]) -> float:
        """Have some lanes change at the same time; return how long batches waited."""
        is_back = way is not self._forth
        sides = [(lane.after, lane.before) if is_back else (lane.before, lane.after) for lane in group]
        shared = (self.shared, self._shared_before) if is_back else (self._shared_before, self.shared)
        began, seconds = time.monotonic(), self._wish.seconds
        try:
            if way.moves:
                await _each(lane.rest(shared[0].values(), seconds) for lane in group)
                await self._move_states(sides, shared, way)
        except BaseException:
            self.silent += await _resume(group)
            raise
        if not is_back:
            touched.append(group)
        await _each(lane.change_buffer(to, way, seconds) for lane, (_, to) in zip(group, sides, strict=True))
        if way.moves:
            await _each(lane.change_stages(to, way) for lane, (_, to) in zip(group, sides, strict=True))
            await self._change_shared(sides[0][1].layout, shared[1], way)
        pairs = zip(group, sides, strict=True)
        await _each(lane.change_ingest(to, way, shared[0].values(), seconds) for lane, (_, to) in pairs)
        pause = time.monotonic() - began if way.moves else 0.0
        for lane, (from_, to) in zip(group, sides, strict=True):
            await lane.rename_emitters(to, way)
            await lane.exchange_emitters(from_, to, way)
        return pause

    async def _move_states(
        self, sides: Sequence[tuple[Side, Side]], shared: tuple[Mapping[str, Any], Mapping[str, Any]], way: Direction
    ) -> None:
        """Give middleware of new actors the state of what it takes the place of."""
        if len(sides) == 1:  # where it gets its first neighbour, its stages become those of all lanes
            [(from_, to)] = sides
            await _move({**from_.handles.stages, **shared[0]}, {**to.handles.stages, **shared[1]}, way)
            return
        for from_, to in sides:
            await _move(from_.handles.stages, to.handles.stages, way)
        await _move(*shared, way)

    async def _change_shared(self, layout: Layout, shared: Mapping[str, Any], way: Direction) -> None:
        for stage in layout.plan.stages:
            if stage.shared and stage.name in way.stays:
                for part in workers_of(stage):
                    packed = pack(*shared_arguments(layout, stage, part))
                    await asyncio.to_thread(keep, layout.names.shared(part), way.number, packed)
                    await until_done(part, shared[part].change, way.number, packed)

    async def _take_back(self, touched: Sequence[list[LaneChange]], reason: BaseException) -> None:
        """Have lanes run again what they did before; raises `StuckError` where that fails."""
        old, new, _, _ = self._wish
        back = Direction(
            self._numbers(),
            difference(new, old),
            [Heir(heir.new, heir.old, heir.divided) for heir in self._forth.heirs],
            {former: name for name, former in self._forth.renamed.items()},
            self._forth.stays,
            self._forth.moves,
        )
        fresh = [o for o in new.plan.outlets if o.name in self._wish.found.named("emitter", PartVerdict.NEW)]
        for group in reversed(touched):
            for lane in group:
                lane.go_back(fresh)
            try:
                await self._switch(group, back, [])
            except BaseException as error:
                names = ", ".join(lane.name.rstrip("/") or "the lane" for lane in group)
                raise StuckError([f"{_said(reason)}; {names} could not be taken back: {_said(error)}"]) from error
            self.taken_back += group


def _said(error: BaseException) -> str:
    return "; ".join(error.reasons) if isinstance(error, ChangeError) else named(error)


async def _move(from_: Mapping[str, Any], to: Mapping[str, Any], way: Direction) -> None:
    """Move the state of middleware between stages of one lane, or those that all share; replicas have one each."""
    for heir in way.heirs:
        before, after = _workers(from_, heir.old.stage), _workers(to, heir.new.stage)
        if heir.divided:
            waits = [ask(old, from_[old].shares, heir.old.position, len(after)) for old in before]
            shares = await asyncio.gather(*waits)
            for new, own in zip(after, zip(*shares, strict=True), strict=True):
                await ask(new, to[new].restore_shares, heir.new.position, own)
            continue
        for old, new in zip(before, after, strict=False):
            states = await ask(old, from_[old].snapshot, [heir.old.position])
            await ask(new, to[new].restore, dict(zip([heir.new.position], states.values(), strict=True)))


def _workers(handles: Mapping[str, Any], stage: str) -> list[str]:
    return [part for part in handles if part == stage or part.startswith(f"{stage}/")]


async def _resume(lanes: Sequence[LaneChange]) -> list[LaneChange]:
    """Have lanes send again; return those that could not be told."""
    results = await asyncio.gather(*(lane.resume() for lane in lanes), return_exceptions=True)
    return [lane for lane, result in zip(lanes, results, strict=True) if isinstance(result, BaseException)]


async def _each(work: Iterable[Awaitable[None]]) -> None:
    """Do it side by side, all of it, and raise what the first failed with."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
