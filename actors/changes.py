"""The changes of a running pipeline of actors, one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from itertools import count

from msgspec.structs import replace

from polku.actors.actor_factory import ActorFactory, Layout
from polku.actors.chained_change import ChainedChange
from polku.actors.changing import PartsChange, Wish, wish
from polku.actors.departures import Departures
from polku.actors.kept import forget_all
from polku.actors.lane_change import LaneChange, StuckError, end_actors
from polku.actors.lanes import Lanes, Open, lost
from polku.actors.resizing import Resizing
from polku.aio.tasks import TaskSet
from polku.change.contents import Contents, contents_of
from polku.change.difference import Difference
from polku.errors import ChangeError, PolkuError
from polku.log import RepeatedLog
from polku.plan import Plan
from polku.runtime.changing import Changed
from polku.runtime.report import EmitterReport
from polku.text import named, said
from polku.tracing.export import still_traced
from polku.usercode import contained

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_STOP_SECONDS = 5.0  # for a change in progress, when the pipeline stops


class GaveWayError(ChangeError):
    """Say that a change had changed nothing yet when another one came."""


class Changes:
    """Have a pipeline take other plans; `on_parts` is awaited where its actors, or their plan, are others by then."""

    def __init__(self, plan: Plan, on_parts: Callable[[], Awaitable[None]]) -> None:
        self._contents = contents_of(plan)
        self._on_parts = on_parts
        self._factory: ActorFactory | None = None
        self._departures: Departures
        self._lanes: Lanes
        self._numbers = count(1)
        self._updating: asyncio.Future[Changed] | None = None
        self._may_give_way = False  # whether what is in progress has changed nothing yet
        self._is_stopping = False
        self._stuck = ""
        self._silent: set[str] = set()  # ingests that have yet to be told to send again
        self._tasks = TaskSet("parts that leave")

    @property
    def plan(self) -> Plan:
        """The plan that runs."""
        return self._contents.plan

    @property
    def gone(self) -> Mapping[str, EmitterReport]:
        """What became of the events of lanes that are no parts any more, by emitter."""
        return {} if self._factory is None else self._factory.gone

    @property
    def is_stopping(self) -> bool:
        """Whether nothing is changed any more."""
        return self._is_stopping

    def begin(self, factory: ActorFactory, open_lane: Open) -> None:
        """Change what this has created; `open_lane` has one lane more take events."""
        self._factory = factory
        self._departures = Departures(factory, self._next, self._on_parts)
        self._lanes = Lanes(factory, open_lane, self._on_parts)

    async def update(self, plan: Plan, seconds: float) -> Changed:
        """Run another plan from now on.

        Raises `ChangeError` when nothing was changed, and its subclass `StuckError` when a change stopped halfway, so
        that only a restart helps.
        """
        return await self._alone(lambda factory: self._update(factory, plan, seconds))

    async def resize(self, stage: str, replicas: int, seconds: float) -> Changed:
        """Give a stage another number of replicas; raises errors as `update` does.

        New replicas have `seconds` to start.
        """
        return await self._alone(lambda factory: self._resize(factory, stage, replicas, seconds))

    @property
    def lost(self) -> int:
        """How many lanes that are spread over nodes were lost with theirs, or leave them."""
        if self._factory is None or not self.plan.spread:
            return 0
        return len(lost(self._factory.lanes, self.plan.lanes))

    async def restore(self) -> Changed:
        """Have other lanes in the place of those that were lost; raises `ChangeError`, and then there are none."""
        return await self._alone(self._restore)

    async def give_way(self) -> None:
        """End what is in progress where it has changed nothing yet; return when nothing is in progress."""
        if self._updating is not None:
            if self._may_give_way:
                self._updating.cancel()
            await asyncio.wait([self._updating])

    async def _alone(self, change: Callable[[ActorFactory], Coroutine[None, None, Changed]]) -> Changed:
        if self._is_stopping or self._factory is None:
            raise ChangeError(["the pipeline is stopping"])
        if self._updating is not None and not self._updating.done():
            raise ChangeError(["another change is in progress"])
        if self._stuck:
            raise ChangeError([self._stuck])
        if self._silent:
            parts = ", ".join(sorted(self._silent))
            raise ChangeError([f"{parts} has not answered since a change failed; try again once it sends again"])
        updating = self._updating = asyncio.ensure_future(contained(change(self._factory)))
        try:
            return await asyncio.shield(updating)
        except asyncio.CancelledError:
            if updating.cancelled() and not self._is_stopping:
                raise GaveWayError(["it gave way to another change"]) from None
            raise

    async def stop(self) -> None:
        """Change nothing more; what is in progress has some time to end, and then to be taken back."""
        self._is_stopping = True
        if self._factory is not None:
            await self._lanes.stop()
        if self._updating is not None:
            await asyncio.wait([self._updating], timeout=_STOP_SECONDS)
            self._updating.cancel()
            await asyncio.wait([self._updating], timeout=_STOP_SECONDS)

    async def close(self) -> None:
        """End what goes on behind the pipeline's back."""
        await self._tasks.close()

    async def forget(self) -> None:
        """Forget what is kept of this pipeline in Ray's store."""
        if self._factory is not None:
            await asyncio.to_thread(forget_all, f"{self._factory.layout.names.run}/")

    async def _update(self, factory: ActorFactory, plan: Plan, seconds: float) -> Changed:
        plan = plan.beside() if self.plan.side_by_side and not plan.side_by_side else plan
        contents = contents_of(still_traced(plan, self.plan), self._contents)
        wanted = wish(self._contents, contents, seconds)
        if wanted.found.is_empty:
            return Changed(wanted.found)
        try:
            async with factory.changing:
                self._check_names(contents.plan)
                return await self._change_all(factory, wanted)
        except StuckError as error:
            self._stuck = f"a change before failed halfway ({'; '.join(error.reasons)}); restart the pipeline"
            raise StuckError(error.reasons, str(wanted.found)) from error
        except ChangeError as error:
            raise ChangeError(error.reasons, str(wanted.found)) from error

    async def _change_all(self, factory: ActorFactory, wanted: Wish) -> Changed:
        """Start the lanes that are new, change what there is, and then have lanes come and go."""
        lanes = wanted.new.plan.lanes
        change = self._change_of(factory, wanted)
        layout = factory.layout.renewed(wanted.new.plan, (), 0) if change is None else change.layout
        self._may_give_way = wanted.is_about_lanes
        try:
            fresh = await self._lanes.prepare(layout, lanes) if not wanted.new.plan.per_node else []
        finally:
            self._may_give_way = False
        try:
            changed = await self._change_parts(factory, wanted, change, layout)
        except BaseException:
            self._lanes.discard(fresh)
            raise
        if wanted.new.plan.per_node:
            return changed
        try:
            await self._lanes.join(fresh)
            await self._lanes.leave(lanes)
        except BaseException as error:
            await self._take_back(factory, wanted, error)
            raise
        self._lanes.level(fresh)
        return changed

    async def _take_back(self, factory: ActorFactory, wanted: Wish, reason: BaseException) -> None:
        """Have the lanes that stay run again what they did before; raises `StuckError` where that fails."""
        plan = wanted.old.plan
        plan = plan.beside() if wanted.new.plan.side_by_side and not plan.side_by_side else plan
        try:
            back = wish(wanted.new, contents_of(plan, wanted.new), wanted.seconds)
            change = self._change_of(factory, back)
            layout = factory.layout.renewed(plan, (), 0) if change is None else change.layout
            await self._change_parts(factory, back, change, layout)
        except ChangeError as error:
            raise StuckError([named(reason), f"it could not be taken back: {'; '.join(error.reasons)}"]) from error

    def _change_of(self, factory: ActorFactory, wanted: Wish) -> PartsChange | ChainedChange | None:
        """Return what changes the parts of lanes; None where these stay as they are."""
        if wanted.is_about_lanes:
            return None
        if wanted.new.plan.chained:
            return ChainedChange(factory, wanted.old, wanted.new, wanted.seconds, self._next)
        return PartsChange(factory, self._departures, wanted, self._next)

    async def _change_parts(
        self, factory: ActorFactory, wanted: Wish, change: PartsChange | ChainedChange | None, layout: Layout
    ) -> Changed:
        if isinstance(change, PartsChange):
            return await self._change(factory, change, wanted.new)
        changed = Changed(wanted.found) if change is None else await change.run(wanted.found)
        factory.become(layout, dict(factory.parts().shared))
        self._contents = wanted.new
        await self._on_parts()
        return changed

    async def _change(self, factory: ActorFactory, change: PartsChange, contents: Contents) -> Changed:
        try:
            changed = await change.run()
        except BaseException:
            for lane in change.silent:
                self._silent.add(name := f"{lane.name}ingest")
                self._tasks.start(f"{name} is to send again", self._resume(name, lane))
            for lane in change.taken_back:
                factory.exchange(lane.before.handles, lane.place)
                self._departures.took_back(lane.before.handles.number, lane.before)
                self._departures.see_off(lane.before.handles.number, self._tasks)
            raise
        for lane in change.lanes:
            factory.exchange(lane.after.handles, lane.place)
        factory.become(change.layout, change.shared)
        self._contents = contents
        await self._departures.leave(change.gone, self._tasks)
        await self._on_parts()
        self._tasks.start("parts that others took the place of", change.end())
        return changed

    async def _resume(self, name: str, lane: LaneChange) -> None:
        """Have a lane send again that did not answer: until then it takes nothing, and nothing else is changed."""
        number = lane.before.handles.number
        while self._factory is not None and any(each.number == number for each, _ in self._factory.lanes):
            try:
                await lane.resume()
            except PolkuError as error:
                text = "%s has yet to send again after a change that failed: %s"
                _REPEATED.warning((name, "silent"), text, name, said(error))
            else:
                break
        self._silent.discard(name)

    async def _resize(self, factory: ActorFactory, stage: str, replicas: int, seconds: float) -> Changed:
        async with factory.changing:
            plan = self.plan.with_replicas(stage, replicas)
            self._may_give_way = True
            try:
                going = await Resizing(factory, plan, stage, self._next).run(seconds)
            finally:
                self._may_give_way = False
            self._contents = replace(self._contents, plan=plan)
            await self._on_parts()
        if going:
            self._tasks.start("replicas that are gone", end_actors(going))
        return Changed(Difference(()))

    async def _restore(self, factory: ActorFactory) -> Changed:
        async with factory.changing:
            self._may_give_way = True
            try:
                fresh = await self._lanes.prepare(factory.layout, self.plan.lanes)
            finally:
                self._may_give_way = False
            await self._lanes.join(fresh)
        self._lanes.level(fresh)
        return Changed(Difference(()))

    def _check_names(self, plan: Plan) -> None:
        for outlet in plan.outlets:
            if outlet.name in self._departures.names:
                raise ChangeError([f"an emitter {outlet.name!r} that is gone still delivers what waits for it"])

    def _next(self) -> int:
        return next(self._numbers)
