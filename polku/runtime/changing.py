"""A lane whose parts can be exchanged while it runs, without an event that is lost, held twice or out of order.

What is new is built and started next to what runs; where that fails nothing was changed. Then, in this order:

1. The middleware comes to rest. Where stages stay divided as they were, each works on no batch for a moment, and what
   comes waits; else the first link sends nothing until everything that is on its way has its answer.
2. State moves from middleware that goes to what takes its place; the buffer gets its new outlets, in the journal first.
   Both may still fail, and then all goes on as it was.
3. Other middleware works from the next batch on.
4. Outlets of emitters that are exchanged stop, hear what became of what is in flight, and go on with the new emitter
   from there. Those of emitters that are gone deliver what they have, and end.
5. Ingestors, sources and limits are exchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from msgspec import Struct, field

from polku.aio.tasks import TaskSet
from polku.buffer.buffer import Buffer
from polku.buffer.outlets import OutletChange
from polku.change.contents import Contents, StepName, names_by_stage
from polku.change.difference import Difference, PartVerdict, keeps_state, renames
from polku.contracts import Flush, Holder, Step
from polku.dead_letters import DeadLetters
from polku.emit.delivery import Delivery, DeliveryStatistics
from polku.errors import ChangeError, JournalError
from polku.hooks import CLOSE_SECONDS, call_hook, close_each
from polku.link.link import Outgoing
from polku.link.protocols import LocalPeer
from polku.plan import Plan, StagePlan
from polku.runtime.assembly import accepts_first, build_delivery, build_stage, build_step, rules_of, tracing_of
from polku.runtime.changing_intake import FreshIntake, Opened, exchange_intake, start_intake
from polku.runtime.lane import Elsewhere, Lane
from polku.runtime.watch import trouble
from polku.stage.holding import is_holder
from polku.stage.stage import Stage
from polku.text import counted, named

_TROUBLED_SECONDS = 0.1  # for what is in flight to one whose destination takes nothing
_FLIGHT_SECONDS = 5.0  # for what is in flight to an emitter that is exchanged, until it is delivered again


class Changed(NamedTuple):
    """What was changed, and for how many seconds that kept batches waiting: in the stages, and by emitter.

    `again` are the events that emitters may have had already, and get again from what took their place.
    """

    difference: Difference
    stages_seconds: float = 0.0
    emitters_seconds: Mapping[str, float] = {}
    again: Mapping[str, int] = {}


class _Fresh(Struct):
    """What was started next to the parts that run, and how to close it again."""

    steps: dict[StepName, Step | Holder] = field(default_factory=dict)
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    intake: FreshIntake = field(default_factory=FreshIntake)
    opened: Opened = field(default_factory=Opened)


class ChangingLane(Lane):
    """A lane that can take another plan while its stages all run here."""

    def __init__(self, plan: Plan, dead_letters: DeadLetters, elsewhere: Elsewhere = lambda stage: ()) -> None:
        super().__init__(plan, dead_letters, elsewhere)
        self._background = TaskSet("parts that leave")
        self._given: dict[str, Sequence[Step | Holder]] | None = None  # the steps of stages that are built anew

    async def change(self, old: Contents, new: Contents, found: Difference, *, seconds: float) -> Changed:
        """Take the place of the plan `old` with `new`; raises `ChangeError`, and then nothing was changed.

        The middleware has `seconds` to come to rest.
        """
        self._check_names(new.plan)
        fresh = _Fresh()
        try:
            await self._start(new.plan, found, fresh)
            pause = await self._switch(old, new, found, fresh, seconds)
        except BaseException:
            await fresh.opened.close()
            raise
        return await self._finish(old, new, found, fresh, pause)

    async def close(self) -> None:
        """Close every part."""
        await self._background.close()
        await super().close()

    def _check_names(self, plan: Plan) -> None:
        """Raise `ChangeError` where an emitter would have the name of one that still delivers what it has."""
        leaving = self._deliveries.keys() - {outlet.name for outlet in self._plan.outlets}
        for outlet in plan.outlets:
            if outlet.name in leaving:
                raise ChangeError([f"an emitter {outlet.name!r} that is gone still delivers what waits for it"])

    async def _start(self, plan: Plan, found: Difference, fresh: _Fresh) -> None:
        """Build and start what is new, or takes another part's place."""
        try:
            await self._start_steps(plan, found, fresh)
            await self._start_emitters(plan, found, fresh)
            fresh.intake = await start_intake(plan, found, self.intake, fresh.opened, self._clock)
        except ChangeError:
            raise
        except Exception as error:
            raise ChangeError([f"a part could not be built: {named(error)}"]) from error

    async def _start_steps(self, plan: Plan, found: Difference, fresh: _Fresh) -> None:
        wanted = set(found.named("middleware", PartVerdict.NEW, PartVerdict.CHANGED))
        names = names_by_stage(plan)
        for stage in plan.stages:
            for name, middleware in zip(names[stage.name], stage.middleware, strict=True):
                if str(name) in wanted:
                    step = fresh.steps[name] = build_step(middleware, self._clock)
                    await fresh.opened.open(f"middleware {name}", step)

    async def _start_emitters(self, plan: Plan, found: Difference, fresh: _Fresh) -> None:
        exchanged = built_anew(found)
        for outlet in plan.outlets:
            if outlet.name not in exchanged:
                continue
            delivery = fresh.deliveries[outlet.name] = build_delivery(outlet, self._clock, tracing=tracing_of(plan))
            fresh.opened.closing.append((f"emitter {outlet.name!r}", delivery.close))
            try:
                await delivery.start()
            except Exception as error:
                raise ChangeError([f"emitter {outlet.name!r} does not start: {named(error)}"]) from error

    async def _switch(self, old: Contents, new: Contents, found: Difference, fresh: _Fresh, seconds: float) -> float:
        """Exchange the middleware, and let the buffer have its new outlets; return how long batches waited."""
        running = self._running_steps()
        steps = {name: fresh.steps.get(name) or running[name] for name in new.steps}
        heirs = _heirs(old, new, running, fresh.steps)
        began = time.monotonic()
        if self._stays_divided(new.plan):
            async with self._stages_at_rest(new.plan, steps, seconds) as resting:
                names = names_by_stage(new.plan)
                for name, stage in self._stages.items():
                    if stage in resting:
                        await stage.release_leaving([steps[step] for step in names[name]], heirs)
                for stage in resting:
                    stage.begin_move()
                released = _move_state(heirs)
                await self._rearrange_buffer(new.plan, found, fresh, seconds)
                await self._take_steps(new.plan, steps, heirs, released)
        else:
            async with self._chain_at_rest(seconds):
                _move_state(heirs)
                await self._rearrange_buffer(new.plan, found, fresh, seconds)
                await self._build_chain(new.plan, steps)
        pause = time.monotonic() - began
        gone = [(name, step) for name, step in running.items() if step not in steps.values()]
        self._background.start(
            "middleware",
            close_each((f"middleware {n}", partial(call_hook, s, "close", seconds=CLOSE_SECONDS)) for n, s in gone),
        )
        return pause

    def _running_steps(self) -> dict[StepName, Step | Holder]:
        names = names_by_stage(self._plan)
        return {
            name: step
            for stage in self._plan.stages
            for name, step in zip(names[stage.name], self._stages[stage.name].middleware, strict=True)
        }

    def _stays_divided(self, plan: Plan) -> bool:
        """Return whether stages can stay, and middleware be exchanged in them."""
        before, after = (_division(each) for each in (self._plan, plan))
        if before.keys() != after.keys() or any(
            before[name].accepts_first != after[name].accepts_first for name in before
        ):
            return False
        where = {name: stage for stage, division in before.items() for name in division.names}
        return all(where.get(name, stage) == stage for stage, division in after.items() for name in division.names)

    @contextlib.asynccontextmanager
    async def _stages_at_rest(
        self, plan: Plan, steps: Mapping[StepName, Step | Holder], seconds: float
    ) -> AsyncIterator[list[Stage]]:
        """Have no stage that changes work on a batch, and yield these.

        They come to rest from the front to the back, so that none waits for another.
        """
        names = names_by_stage(plan)
        resting: list[Stage] = []
        async with contextlib.AsyncExitStack() as stack:
            for stage in plan.stages:
                running = self._stages[stage.name]
                if running.middleware == tuple(steps[name] for name in names[stage.name]):
                    continue
                try:
                    async with asyncio.timeout(seconds):
                        await stack.enter_async_context(running.at_rest())
                except TimeoutError:
                    busy = running.statistics().step or "its middleware"
                    reason = f"{stage.name} did not come to rest within {seconds:g} s: {busy} is at work on a batch"
                    raise ChangeError([reason]) from None
                resting.append(running)
            yield resting

    @contextlib.asynccontextmanager
    async def _chain_at_rest(self, seconds: float) -> AsyncIterator[None]:
        """Have no batch between the ingest and the buffer, nor one whose sender still waits for its delivery."""
        link = self.intake.link
        link.pause()
        try:
            try:
                async with asyncio.timeout(seconds):
                    while link.open:
                        await self.flush()
                        await asyncio.sleep(0.01)
            except TimeoutError:
                left = counted(link.open, "batch")
                reason = f"stages are divided otherwise, and {left} had no answer within {seconds:g} s"
                raise ChangeError([f"{reason}: what they wait for takes nothing"]) from None
            yield
        finally:
            link.resume()

    async def _rearrange_buffer(self, plan: Plan, found: Difference, fresh: _Fresh, seconds: float) -> None:
        renamed = renames(self._plan, plan)
        new = found.named("emitter", PartVerdict.NEW)
        links = {name: self._link(f"buffer/{name}", LocalPeer(fresh.deliveries[name])) for name in new}
        change = OutletChange(links, renamed, found.named("emitter", PartVerdict.GONE))
        try:
            await self._the_buffer.rearrange(plan.buffer, rules_of(plan), change, seconds=seconds)
        except JournalError as error:
            raise ChangeError([str(error)]) from error
        except TimeoutError:
            raise ChangeError(
                [f"the buffer did not come to rest within {seconds:g} s: what it writes to hangs"]
            ) from None
        former = {old: name for name, old in renamed.items()}
        moved = {former.get(name, name): delivery for name, delivery in self._deliveries.items()}
        for name, delivery in moved.items():
            delivery.name = name
        self._deliveries = {**moved, **{name: fresh.deliveries[name] for name in new}}

    async def _take_steps(
        self,
        plan: Plan,
        steps: Mapping[StepName, Step | Holder],
        heirs: Sequence[tuple[Step | Holder, Step | Holder]],
        released: Sequence[tuple[Holder, Sequence[Flush]]],
    ) -> None:
        names = names_by_stage(plan)
        for stage in plan.stages:
            running = self._stages[stage.name]
            wanted = tuple(steps[name] for name in names[stage.name])
            if running.middleware == wanted:
                continue
            own = [(old, new) for old, new in heirs if old in running.middleware]
            await running.take_steps(wanted, own)
            for holder, flushes in released:
                if holder in wanted:
                    await running.release(holder, flushes)
        self._plan = plan

    async def _build_chain(self, plan: Plan, steps: Mapping[StepName, Step | Holder]) -> None:
        """Build stages of middleware that is started, and lead the first link to them."""
        before = self._stages
        names = names_by_stage(plan)
        self._plan, self._stages = plan, {}
        self._given = {stage: [steps[name] for name in own] for stage, own in names.items()}
        try:
            peer = await self._connect(self._the_buffer)
        finally:
            self._given = None
        self._stages = {stage.name: self._stages[stage.name] for stage in plan.stages}
        here = self._first_stage_is_here
        self.intake.link.lead_to(peer, self._first_window(), eager=isinstance(peer, LocalPeer))
        self.intake.hand_on(reads_routes=not plan.stages, seals=not here)
        for stage in before.values():
            stage.abandon()
            await stage.close()

    async def _start_stage(self, stage: StagePlan, outgoing: Outgoing) -> Stage:
        if self._given is None:
            return await super()._start_stage(stage, outgoing)
        steps = self._given[stage.name]
        built = build_stage(self._plan, stage, outgoing, self._dead_letters, self._clock, steps=steps)
        self._stages[stage.name] = built
        built.adopt()
        return built

    async def _finish(self, old: Contents, new: Contents, found: Difference, fresh: _Fresh, pause: float) -> Changed:
        """Exchange what cannot fail any more."""
        seconds: dict[str, float] = {}
        again: dict[str, int] = {}
        exchanged = [name for name in built_anew(found) if name not in found.named("emitter", PartVerdict.NEW)]
        await asyncio.gather(*(self._exchange_emitter(name, fresh, seconds, again) for name in exchanged))
        for name in found.named("emitter", PartVerdict.GONE):
            self._background.keep_alive(f"emitter {name!r}", partial(self._let_go, name))
        await exchange_intake(self.intake, new.plan, found, fresh.intake, self._dead_letters, self._background)
        replay_to(new.plan, self._dead_letters)
        return Changed(found, pause, seconds, again)

    async def _exchange_emitter(
        self, name: str, fresh: _Fresh, seconds: dict[str, float], again: dict[str, int]
    ) -> None:
        before, delivery = self._deliveries[name], fresh.deliveries[name]
        link = self._link(f"buffer/{name}", LocalPeer(delivery))
        began = time.monotonic()
        grace = grace_of(before.statistics())
        count = await self._the_buffer.outlet(name).hand_over(link, before.release, grace=grace)
        delivery.add_counts(before.statistics())
        seconds[name] = time.monotonic() - began
        if count:
            again[name] = count
        self._deliveries = {**self._deliveries, name: delivery}
        self._background.start(f"emitter {name!r}", close_each([(f"emitter {name!r}", before.close)]))

    async def _let_go(self, name: str) -> None:
        """Have an emitter that is gone deliver what it has, and end it."""
        await self._the_buffer.forget(name)
        delivery = self._deliveries[name]
        self._deliveries = {other: each for other, each in self._deliveries.items() if other != name}
        await close_each([(f"emitter {name!r}", delivery.close)])

    @property
    def _the_buffer(self) -> Buffer:
        assert self._buffer is not None
        return self._buffer


class _Division(Struct, frozen=True):
    """The middleware of a stage, and whether it accepts first: then it keeps a window of its own."""

    names: frozenset[StepName]
    accepts_first: bool


def _division(plan: Plan) -> dict[str, _Division]:
    names = names_by_stage(plan)
    return {stage.name: _Division(frozenset(names[stage.name]), accepts_first(plan, stage)) for stage in plan.stages}


def grace_of(before: DeliveryStatistics) -> float:
    """Return for how many seconds what is in flight to an emitter that is exchanged may wait for its answer."""
    return _TROUBLED_SECONDS if trouble(before) else _FLIGHT_SECONDS


def replay_to(plan: Plan, dead_letters: DeadLetters) -> None:
    """Let letters go back to the emitters of this plan."""
    known: Any = getattr(dead_letters, "replay_to", None)
    if known is not None:
        known([outlet.name for outlet in plan.outlets])


def built_anew(found: Difference) -> list[str]:
    """Return the names of emitters that are built anew."""
    return [
        part.name
        for part in found.parts
        if part.kind == "emitter" and (part.verdict is PartVerdict.NEW or "another emitter" in part.note)
    ]


def _heirs(
    old: Contents,
    new: Contents,
    running: Mapping[StepName, Step | Holder],
    fresh: Mapping[StepName, Step | Holder],
) -> list[tuple[Step | Holder, Step | Holder]]:
    """Return the steps whose state moves, each with what takes its place."""
    before, after = (dict(contents.components()) for contents in (old, new))
    return [(running[n], s) for n, s in fresh.items() if n in running and keeps_state(before[n], after[n])]


def _move_state(heirs: Sequence[tuple[Any, Any]]) -> list[tuple[Holder, Sequence[Flush]]]:
    """Give steps the state of those whose place they take; return what holders let go then."""
    released: list[tuple[Holder, Sequence[Flush]]] = []
    for old, new in heirs:
        try:
            flushes = new.restore(old.snapshot())
        except Exception as error:
            raise ChangeError([f"the state of {old.name} cannot be moved: {named(error)}"]) from error
        if is_holder(new) and flushes:
            released.append((new, flushes))
    return released
