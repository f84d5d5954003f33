"""One lane of a pipeline of actors: what it is made of before and after a change, and the steps from here to there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from polku.actors.actor_factory import LaneFactory, Layout
from polku.actors.asking import ANSWER_SECONDS, ask, begin
from polku.actors.buffer import BufferArguments
from polku.actors.drain import kill
from polku.actors.handles import LaneHandles
from polku.actors.kept import forget, keep
from polku.actors.names import same
from polku.actors.nodes import LanePlace
from polku.actors.shell import pack
from polku.actors.staying import Heir
from polku.actors.target import workers_of
from polku.change.difference import Difference
from polku.emit.delivery import DeliveryStatistics
from polku.errors import ChangeError, PolkuError
from polku.hooks import CLOSE_SECONDS
from polku.plan import AckLevel, OutletPlan
from polku.runtime.changing import grace_of
from polku.runtime.watch import trouble
from polku.text import counted

START_SECONDS = 120.0
"""How long a new part may take to start."""

_REST_SECONDS = 0.01  # between two looks at whether everything that was sent has its answer
_LOOK_SECONDS = 10.0
_RESUME_SECONDS = 10.0
_SILENT_SECONDS = 5.0  # for what would be good to know, and is not needed


class Direction(NamedTuple):
    """Which way parts change: to the new plan, or back again.

    `number` is kept with what parts are made of. `renamed` has the former name of an emitter by its new one, `moves` is
    whether batches take another way.
    """

    number: int
    found: Difference
    heirs: Sequence[Heir]
    renamed: Mapping[str, str]
    stays: frozenset[str]
    moves: bool


class Side(NamedTuple):
    """What a lane is made of, before or after a change; `extra` emitters are not in the plan, or no longer.

    Of these some are `leaving`: they get nothing more.
    """

    layout: Layout
    handles: LaneHandles
    extra: Sequence[OutletPlan] = ()
    leaving: frozenset[str] = frozenset()


class StuckError(ChangeError):
    """Say that a change failed halfway, and could not be taken back everywhere: only a restart helps."""

    def __str__(self) -> str:
        return f"a change failed halfway: {'; '.join(self.reasons)}; restart the pipeline"


class LaneChange:
    """Change one lane; what could not be begun ends with `discard`."""

    def __init__(self, before: Side, place: LanePlace) -> None:
        self.name = before.handles.name
        self.before = before
        self.after = before
        self.place = place
        self.created: dict[str, Any] = {}  # by part
        self.seconds: dict[str, float] = {}
        self.again: dict[str, int] = {}
        self._epochs: dict[str, int] = {}

    def create(self, layout: Layout, way: Direction, exchanged: Iterable[str], gone: Sequence[OutletPlan]) -> None:
        """Create the actors of what is new, of which none has been started; blocks."""
        before, factory = self.before.handles, self._factory(layout)
        own = [stage for stage in factory.plan.stages if not stage.shared]
        stages = factory.create_stages([stage for stage in own if stage.name not in way.stays])
        self.created = {f"{self.name}{part}": handle for part, handle in stages.items()}
        emitters = {}
        for outlet in factory.plan.outlets:
            if outlet.name in exchanged:
                emitters[outlet.name] = factory.create_emitter(outlet)
                self.created[f"{self.name}emitter:{outlet.name}"] = emitters[outlet.name]
            else:
                emitters[outlet.name] = before.emitters[way.renamed.get(outlet.name, outlet.name)]
        extra = [*self.before.extra, *(replace(outlet, formerly=None) for outlet in gone)]
        emitters |= {outlet.name: before.emitters[outlet.name] for outlet in extra}
        known = {**before.stages, **stages}
        ordered = {part: known[part] for stage in own for part in workers_of(stage)}
        handles = before._replace(stages=ordered, emitters=emitters)
        self.after = Side(layout, handles, extra, self.before.leaving)

    async def start(self, way: Direction) -> None:
        """Start what was created, and the ingestors and sources that are new; raises `ChangeError`."""
        starting = [self._begin(part, handle) for part, handle in self.created.items()]
        prepare = self.before.handles.ingest.prepare
        packed = pack(*self._factory(self.after.layout).ingest_arguments())
        await _all(*starting, ask(f"{self.name}ingest", prepare, packed, way.found, seconds=START_SECONDS))

    async def _begin(self, part: str, handle: Any) -> None:
        self._epochs[part] = await begin(part, handle, START_SECONDS)

    def go_back(self, fresh: Sequence[OutletPlan]) -> None:
        """Prepare to be taken back: emitters that were new get nothing more, and deliver what waits for them."""
        extra = [*self.before.extra, *(replace(outlet, formerly=None) for outlet in fresh)]
        emitters = {**self.before.handles.emitters, **{o.name: self.after.handles.emitters[o.name] for o in fresh}}
        leaving = self.before.leaving | {outlet.name for outlet in fresh}
        handles = self.before.handles._replace(emitters=emitters)
        self.before = Side(self.before.layout, handles, extra, frozenset(leaving))

    async def rest(self, shared: Iterable[Any], seconds: float) -> None:
        """Return once all that was sent has its answer, and nothing more is sent; raises `ChangeError`."""
        deadline = time.monotonic() + seconds
        handles, plan = self.before.handles, self.before.layout.plan
        holding = any(getattr(m.component, "holds", False) for stage in plan.stages for m in stage.middleware)
        flushed = [*handles.stages.values(), *shared] if holding else []
        flushed += [handles.buffer] if plan.ack is AckLevel.DELIVERED else []
        while left := await ask(f"{self.name}ingest", handles.ingest.rest):
            if time.monotonic() > deadline:
                reason = f"{self.name}ingest: {counted(left, 'batch')} had no answer within {seconds:g} s"
                raise ChangeError([f"{reason}: the next part takes nothing"])
            for handle in flushed:
                await ask("a part that holds events", handle.flush)
            await asyncio.sleep(_REST_SECONDS)

    async def resume(self) -> None:
        """Have the ingest send again; raises `ChangeError`."""
        await ask(f"{self.name}ingest", self.before.handles.ingest.resume, seconds=_RESUME_SECONDS)

    async def change_buffer(self, to: Side, way: Direction, seconds: float) -> None:
        """Have the buffer feed other emitters, or others too; raises `ChangeError`."""
        await tell_buffer(to, self.place, way.number, way.renamed, seconds)

    async def change_stages(self, to: Side, way: Direction) -> None:
        """Have stages that stay hand on to what comes next now."""
        factory = self._factory(to.layout)
        for stage in factory.plan.stages:
            if stage.name in way.stays and not stage.shared:
                for part in workers_of(stage):
                    packed = pack(*factory.stage_arguments(stage, part))
                    await asyncio.to_thread(keep, factory.name(part), way.number, packed)
                    await until_done(f"{self.name}{part}", to.handles.stages[part].change, way.number, packed)

    async def change_ingest(self, to: Side, way: Direction, shared: Iterable[Any], seconds: float) -> None:
        """Have the ingest take messages in and hand on as the plan says; raises `ChangeError`."""
        factory, part = self._factory(to.layout), f"{self.name}ingest"
        packed = pack(*factory.ingest_arguments())
        change = to.handles.ingest.change
        await asyncio.to_thread(keep, factory.name("ingest"), way.number, packed)
        while not await ask(part, change, way.number, packed, way.found, moves=way.moves, seconds=START_SECONDS):
            await self.rest(shared, seconds)  # its process was started again meanwhile, and sends

    async def rename_emitters(self, to: Side, way: Direction) -> None:
        """Tell emitters that keep their actors under which name they run now."""
        factory = self._factory(to.layout)
        for outlet in factory.plan.outlets:
            handle = to.handles.emitters[outlet.name]
            if outlet.name in way.renamed and f"{self.name}emitter:{outlet.name}" not in self.created:
                packed = pack(*factory.emitter_arguments(outlet))
                await asyncio.to_thread(keep, await ask("emitter", handle.own_name), way.number, packed)
                await ask(f"emitter {outlet.name!r}", handle.change, way.number, packed)

    async def exchange_emitters(self, from_: Side, to: Side, way: Direction) -> None:
        """Have outlets deliver to the new actors of their emitters, each on its own."""
        await _all(*(self._exchange(name, from_, to, way) for name in to.handles.emitters))

    async def _exchange(self, name: str, from_: Side, to: Side, way: Direction) -> None:
        handle = to.handles.emitters[name]
        before = from_.handles.emitters.get(way.renamed.get(name, name))
        if before is None or same(before, handle):
            return
        began, grace = time.monotonic(), 0.0
        with contextlib.suppress(ChangeError):  # where it is away nobody knows what became of what it has
            grace = grace_of(await ask(f"emitter {name!r}", before.statistics, seconds=_SILENT_SECONDS))
        again = await ask(f"{self.name}buffer", to.handles.buffer.exchange, name, grace, seconds=grace + 30.0)
        self.seconds[name] = time.monotonic() - began
        if again:
            self.again[name] = again

    async def end(self, way: Direction) -> None:
        """End the actors that others have taken the place of, which go on with their counts."""
        before, after = self.before.handles, self.after.handles
        for name, handle in after.emitters.items():
            old = before.emitters.get(way.renamed.get(name, name))
            if old is not None and not same(old, handle):
                with contextlib.suppress(PolkuError):
                    counts = await ask(f"emitter {name!r}", old.statistics, seconds=_SILENT_SECONDS)
                    await ask(f"emitter {name!r}", handle.add_counts, counts)
        staying = list(after.all().values())
        old_parts = {part: handle for part, handle in before.all().items() if not any(same(handle, s) for s in staying)}
        await end_actors(old_parts)

    async def check(self) -> None:
        """Raise `ChangeError` where a new part is not well: it was started again, or says that it does not work."""
        for part, handle in self.created.items():
            vitals = await ask(part, handle.vitals, seconds=_LOOK_SECONDS)
            if vitals.epoch != self._epochs.get(part):
                raise ChangeError([f"{part} died soon after its start"])
            statistics = await ask(part, handle.statistics, seconds=_LOOK_SECONDS)
            unhealthy = trouble(statistics) if isinstance(statistics, DeliveryStatistics) else statistics.fault
            if unhealthy:
                raise ChangeError([f"{part} is unhealthy: {unhealthy}"])

    def _factory(self, layout: Layout) -> LaneFactory:
        return LaneFactory(layout, self.before.handles.number, self.place)


async def end_actors(handles: Mapping[str, Any]) -> None:
    """Close parts that nobody uses any more, and end their actors."""
    for part, handle in handles.items():
        with contextlib.suppress(PolkuError):
            name = await ask(part, handle.own_name, seconds=_SILENT_SECONDS)
            await ask(part, handle.close, seconds=CLOSE_SECONDS)
            await asyncio.to_thread(forget, name)
    kill(handles.values())


async def tell_buffer(to: Side, place: LanePlace, number: int, renamed: Mapping[str, str], seconds: float) -> None:
    """Have a lane's buffer feed the emitters of a side; raises `ChangeError`."""
    lane, factory = to.handles, LaneFactory(to.layout, to.handles.number, place)
    plan = replace(factory.plan, outlets=(*factory.plan.outlets, *to.extra))
    packed = pack(BufferArguments(plan, dict(lane.emitters), place.is_first, to.leaving))
    await asyncio.to_thread(keep, factory.name("buffer"), number, packed)
    change, part = lane.buffer.change, f"{lane.name}buffer"
    await ask(part, change, number, packed, dict(renamed), seconds, seconds=seconds + ANSWER_SECONDS)


async def until_done(part: str, change: Any, number: int, packed: bytes) -> None:
    """Have a stage take over what it is made of now; it does so once all that it has handed on has its answer."""
    while not await ask(part, change, number, packed):  # noqa: ASYNC110 - it is in another process
        await asyncio.sleep(_REST_SECONDS)


async def _all(*work: Any) -> None:
    """Wait for all, and raise what the first failed with."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
