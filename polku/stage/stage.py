"""A run of neighbouring middleware that works on one batch at a time and hands on what is left.

A stage answers a batch when the next actor has answered. Where something further on holds events back (an Aggregator
here or behind, a buffer that waits for delivery), it answers `Accepted` first: `push` returns once the next actor
has room again, with an awaitable of the outcome. Batches are worked on and handed on in the order of their arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from polku.aio.eager import start_eagerly
from polku.batch.batch import Batch
from polku.batch.fates import account
from polku.batch.receipt import Accepted, Answer, Receipt, Refusal
from polku.clock import Clock
from polku.codes import Code
from polku.contracts import DeadEvent, Flush, Holder, Outcome, Step
from polku.dead_letters import DeadLetters
from polku.event.v1.event_pb2 import Event
from polku.hooks import CLOSE_SECONDS, call_hook, close_each, start_hook
from polku.link.link import Link, Outgoing
from polku.link.local import LocalLink
from polku.log import RepeatedLog
from polku.stage.holding import Holdings, is_holder
from polku.stage.settlement import Settlement
from polku.stage.statistics import StageCounters, StageStatistics
from polku.stage.trail import Passed, outgoing, show
from polku.tap.point import TapPoint
from polku.tap.request import What
from polku.text import named, trace
from polku.usercode import as_exception, contained, is_ours

if TYPE_CHECKING:
    from polku.tracing.tracer import StageSpan, Tracer

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)

_NOTHING = contextlib.nullcontext()
_TURN_SECONDS = 0.005  # in which batches go that a step has held, before others have their turn


class Stage:
    """Run steps on batches and push what goes on down a link; `reads_routes` where the buffer comes next."""

    def __init__(
        self,
        steps: Sequence[Step | Holder],
        link: Outgoing,
        dead_letters: DeadLetters,
        clock: Clock,
        *,
        holds_behind: bool = False,
        reads_routes: bool = True,
        is_partition: bool = False,
        name: str = "",
        tracer: Tracer | None = None,
    ) -> None:
        self._name = name
        self._tracer = tracer
        self._span: StageSpan | None = None  # of the batch that is worked on
        self._steps = tuple(steps)
        self.steps = _distinct([step.name for step in steps])
        self.tap: TapPoint | None = None
        self._numbers = tuple(range(len(steps)))  # of the steps: one that takes another's place has its number
        self._link = link
        self._dead_letters = dead_letters
        self._clock = clock
        self._reads_routes = reads_routes
        self._opened: list[Step | Holder] = []
        self._turn = asyncio.Lock()
        self._counters = StageCounters(clock)
        self._settlement = Settlement(self._counters.counts, is_partition=is_partition)
        self._holdings = Holdings(clock, self._turn, self._release, holds_behind=holds_behind)
        self._holdings.know(self._steps)

    async def start(self) -> None:
        """Start the middleware, and begin to flush held events when they are due."""
        for step in self._steps:
            self._opened.append(step)
            await start_hook(f"middleware {step.name!r}", step)
        self._holdings.begin()

    async def push(self, batch: Batch) -> Answer:
        """Work on a batch and hand it on; see the module for when this returns and what."""
        came = self._clock.monotonic()
        async with self._turn:
            outcome = await self._take(batch, came)
            if self._holdings.accepts_first:
                await self._link.wait_room()
                return Accepted(outcome)
        return await outcome

    async def _take(self, batch: Batch, came: float) -> asyncio.Future[Receipt]:
        """Work on a batch whose turn it is, and return what its receipt is awaited with; it has waited since `came`."""
        counters = self._counters
        counters.batches += 1
        counters.received += len(batch)
        counters.waits.record(self._clock.monotonic() - came, len(batch))
        counters.busy.begin()
        try:
            return await (self._advance(batch, 0) if self._tracer is None else self._trace(self._tracer, batch))
        finally:
            counters.busy.end()

    async def _trace(self, tracer: Tracer, batch: Batch) -> asyncio.Future[Receipt]:
        """Advance a batch within a span."""
        counters = self._counters
        forwarded, dead = counters.forwarded, counters.dead
        with tracer.stage(self._name, batch) as self._span:
            try:
                outcome = await self._advance(self._span.batch, 0)
                self._span.settle(counters.forwarded - forwarded, counters.dead - dead)
            finally:
                self._span = None
        return outcome

    async def flush(self, everything: bool = True) -> None:
        """Release everything that is held: at a drain, once nothing more comes in."""
        async with self._turn:
            await self._holdings.flush_all()

    @property
    def middleware(self) -> tuple[Step | Holder, ...]:
        """The running middleware, in order."""
        return self._steps

    @property
    def batches_open(self) -> int:
        """The number of batches that have no outcome yet."""
        return len(self._settlement.open)

    @contextlib.asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Work on no batch within the block; what comes meanwhile waits, in order."""
        async with self._turn:
            self.begin_move()
            try:
                yield
            finally:
                self._settlement.end_move()

    def begin_move(self) -> None:
        """Take note of what steps are told from now on: within `at_rest`, when their state is about to be copied."""
        self._settlement.begin_move()

    async def release_leaving(
        self, steps: Sequence[Step | Holder], heirs: Sequence[tuple[Step | Holder, Step | Holder]]
    ) -> None:
        """Flush the holders that are removed and have no heir: within `at_rest`.

        It comes before state moves: the events that are flushed still go through the steps as they are now.
        """
        await self._holdings.flush_all(but={id(step) for step in (*steps, *(old for old, _ in heirs))})

    async def take_steps(
        self, steps: Sequence[Step | Holder], heirs: Sequence[tuple[Step | Holder, Step | Holder]]
    ) -> None:
        """Go on with other steps, which are started: within `at_rest`.

        Steps that stay are the same objects. Of `heirs` the first is a step that goes, the second what takes its place
        with its state: it hears what becomes of the batches that the first had. What other holders that go keep is
        released first, through the steps that were there. The caller closes what goes.
        """
        successors = {id(old): new for old, new in heirs}
        remaining = {id(step) for step in steps} | successors.keys()
        await self._holdings.flush_all(but=remaining)
        numbers = {id(successors.get(id(step), step)): n for step, n in zip(self._steps, self._numbers, strict=True)}
        fresh = count(max(self._numbers, default=-1) + 1)
        self._settlement.bequeath(heirs)
        self._numbers = tuple(numbers[id(step)] if id(step) in numbers else next(fresh) for step in steps)
        self._steps, self._opened = tuple(steps), list(steps)
        self.steps = _distinct([step.name for step in steps])
        self._holdings.know(self._steps)
        self._holdings.look_again()

    async def release(self, step: Holder, flushes: Sequence[Flush]) -> None:
        """Hand on what a holder of this stage lets go: within `at_rest`."""
        await self._release(flushes, self._steps.index(step) + 1)

    def adopt(self) -> None:
        """Begin with middleware that is started already."""
        self._opened = list(self._steps)
        self._holdings.begin()

    def abandon(self) -> None:
        """Leave the middleware to another stage: `close` does not close it."""
        self._opened.clear()

    async def close(self) -> None:
        """Stop the flush timer, close the middleware and the link."""
        await self._holdings.close()
        closing: list[tuple[str, Callable[[], Awaitable[None]]]] = [("the link", self._link.close)]
        for step in self._opened:
            closing.append((f"middleware {step.name!r}", partial(call_hook, step, "close", seconds=CLOSE_SECONDS)))
        await close_each(closing)

    def statistics(self) -> StageStatistics:
        """Return a snapshot of the counters."""
        link = self._link.statistics() if isinstance(self._link, (Link, LocalLink)) else None
        fault = self._holdings.fault or self._letters_fault()
        candidates = [step.candidate_counts() for step in self._steps if hasattr(step, "candidate_counts")]
        return self._counters.statistics(self._holdings.held, fault, link, candidates)

    def _letters_fault(self) -> str:
        fault = self._dead_letters.statistics().fault
        return f"its dead letters cannot be stored: {fault}" if fault else ""

    async def _advance(self, batch: Batch, position: int, *, inner: bool = False) -> asyncio.Future[Receipt]:
        """Run the steps from a position on, hand on what is left, and return the future of the batch's receipt."""
        number = self._settlement.begin()
        trail: list[Passed] = []
        letters: list[Awaitable[None]] = []
        try:
            wait = await self._run(batch, number, position, trail, letters)
        except BaseException as error:
            # The steps that it has passed must hear that it failed: else a Deduplicator would drop the retry.
            self._holdings.forget(number)
            settled = start_eagerly(self._settlement.settle(number, failed(error), trail, letters, inner=inner))
            if is_ours(error):
                settled.add_done_callback(_seen)
                raise
            return settled
        return start_eagerly(self._settlement.settle(number, wait, trail, letters, inner=inner))

    async def _run(
        self, batch: Batch, number: int, position: int, trail: list[Passed], letters: list[Awaitable[None]]
    ) -> Awaitable[Receipt] | None:
        """Run the steps and write down which the batch has passed; return the awaitable of what its rest became."""
        wait: Awaitable[Receipt] | None = None
        changed = False
        steps = self._steps[position:]
        events = batch.events if steps else []
        for index, step in enumerate(steps, position):
            if not events:
                break
            changed = changed or not getattr(step, "reads_only", False)
            if self.tap is not None:
                self.tap.show(What.IN, events, step=self.steps[index])
            if is_holder(step):
                wait = await self._holdings.hold(step, batch, events, number, index)
                events = []
                break
            outcome = await self._work(step, events, number)
            if self.tap is not None:
                show(self.tap, self.steps[index], events, outcome, step.drop_reason)
            attribution = account(events, outcome, step.drop_reason) if batch.wants_fates else None
            self._counters.count(step, events, outcome, attribution)
            if outcome.refused:
                letters += self._bury(outcome)
            own = self._numbers[index]
            follows = [(follow, self._settlement.follow(follow, number, own)) for follow in outcome.follows]
            trail.append(Passed(own, step, events, outcome, follows, attribution))
            events = outcome.events
        if events or not steps:
            wait = self._hand_on(outgoing(batch, events, trail, changed=changed) if trail else batch)
        return wait

    async def _work(self, step: Step, events: list[Event], number: int) -> Outcome:
        counters = self._counters
        counters.step, counters.since = step.name, self._clock.monotonic()
        try:
            with self._span.current() if self._span is not None else _NOTHING:
                result = step.process(events, number)
                if isinstance(result, Outcome):
                    return result
                # A task of its own: user code may use `asyncio.timeout`, for which who brought the batch is the wrong
                # task.
                work = asyncio.ensure_future(contained(result))
            return await work
        except BaseException as error:
            if is_ours(error):
                raise
            reason, detail = f"{step.name}: {named(error)}", trace(error)
            text = "%s failed on a batch of %d events"
            _REPEATED.exception(step.name, text, step.name, len(events), component=self._name)
            refusal = Refusal("", Code.MIDDLEWARE_ERROR, reason)
            dead = [DeadEvent(e, refusal._replace(event_id=e.id, position=i), detail) for i, e in enumerate(events)]
            return Outcome([], dead)
        finally:
            counters.step = ""

    def _bury(self, outcome: Outcome) -> list[Awaitable[None]]:
        """Make dead letters of what a step refused; return what is done once they are stored."""
        self._counters.errors.add(outcome.refused[0].refusal.message)
        stored = self._dead_letters.bury_events(outcome.refused)
        return [] if stored is None else [stored]

    def _hand_on(self, batch: Batch) -> asyncio.Future[Receipt]:
        self._counters.forwarded += len(batch)
        if self._reads_routes and batch.routes is None:
            batch.read_routes()
        return self._link.push_nowait(batch)

    async def _release(self, flushes: Sequence[Flush], position: int) -> None:
        began = time.monotonic()
        for flush in flushes:
            if time.monotonic() - began > _TURN_SECONDS:
                await asyncio.sleep(0)  # there may be thousands
                began = time.monotonic()
            batch = Batch.from_events(flush.events)
            if self.tap is not None:
                self.tap.show(What.OUT, batch, step=self.steps[position - 1])
            self._holdings.label(batch, flush)
            outcome = await self._advance(batch, position, inner=True)
            self._holdings.answer(flush, batch, outcome)


def _seen(settled: asyncio.Future[Receipt]) -> None:
    if not settled.cancelled():
        settled.exception()


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of steps, each of which has one of its own."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(found)


def failed(error: BaseException) -> asyncio.Future[Receipt]:
    """Return the future of a receipt that there will never be."""
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    future.set_exception(as_exception(error))
    return future
