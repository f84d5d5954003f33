"""A stage of one step that works on several batches at once; they go on in the order in which they came.

A batch is answered `Accepted` first: `push` returns once another would find room, with an awaitable of the outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from polku.aio.eager import start_eagerly
from polku.aio.sequencer import Sequencer, Ticket
from polku.batch.batch import Batch
from polku.batch.fates import account
from polku.batch.receipt import Accepted, Answer, Receipt
from polku.contracts import Outcome, Overlapping
from polku.stage.stage import Stage, failed
from polku.stage.statistics import StageStatistics
from polku.stage.trail import Passed, outgoing, show
from polku.tap.request import What
from polku.usercode import is_ours

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from polku.tracing.tracer import StageSpan


class OverlappingStage(Stage):
    """Run one overlapping step; with any other middleware it is a `Stage` as any other."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sequencer = Sequencer()
        self._events = self._bytes = 0  # of batches that have not gone on
        self._gone_on = asyncio.Event()

    async def push(self, batch: Batch) -> Answer:
        """Take a batch in; see the module for when this returns."""
        step = self._overlapping
        if step is None:
            return await super().push(batch)
        came = self._clock.monotonic()
        async with self._turn:
            step = self._overlapping  # only now: it may have been exchanged while the batch waited for its turn
            if step is not None:
                self._counters.batches += 1
                self._counters.received += len(batch)
                self._counters.waits.record(self._clock.monotonic() - came, len(batch))
                passing = start_eagerly(self._pass(step, batch, self._sequencer.take()))
                await self._wait_room(step)
                return Accepted(passing)
            outcome = await self._take(batch, came)
            if self._holdings.accepts_first:
                await self._link.wait_room()
                return Accepted(outcome)
        return await outcome

    async def flush(self, everything: bool = True) -> None:
        """Let no event wait for others."""
        if (step := self._overlapping) is not None:
            step.flush()
        else:
            await super().flush(everything)

    @contextlib.asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Work on no batch within the block."""
        async with super().at_rest():
            if (step := self._overlapping) is not None:
                step.flush()
                await self._sequencer.all_over()
            yield

    def statistics(self) -> StageStatistics:
        """Return a snapshot of the counters."""
        counts = super().statistics()
        if (step := self._overlapping) is None:
            return counts
        shape = step.shape()
        busy = step.name if shape.in_flight else ""
        return replace(counts, held=shape.waiting, calls=shape, step=busy, since=shape.since)

    @property
    def _overlapping(self) -> Overlapping | None:
        step = self._steps[0] if len(self._steps) == 1 else None
        return step if overlaps(step) else None

    async def _wait_room(self, step: Overlapping) -> None:
        events, size = step.limit
        while self._events >= events or self._bytes >= size:
            self._gone_on.clear()
            await self._gone_on.wait()
        await self._link.wait_room()

    async def _pass(self, step: Overlapping, batch: Batch, ticket: Ticket) -> Receipt:
        """Have a batch worked on, hand on what is left of it when its turn comes, and return its receipt."""
        number = self._settlement.begin()
        trail: list[Passed] = []
        letters: list[Awaitable[None]] = []
        events, size = len(batch), batch.size_hint
        self._events += events
        self._bytes += size
        self._counters.busy.begin()
        try:
            wait = await self._work_on(step, batch, number, ticket, trail, letters)
        except BaseException as error:
            if is_ours(error):
                raise
            wait = failed(error)
        finally:
            self._counters.busy.end()
            ticket.done()
            self._events -= events
            self._bytes -= size
            self._gone_on.set()
        return await self._settlement.settle(number, wait, trail, letters, inner=False)

    async def _work_on(
        self,
        step: Overlapping,
        batch: Batch,
        number: int,
        ticket: Ticket,
        trail: list[Passed],
        letters: list[Awaitable[None]],
    ) -> Awaitable[Receipt] | None:
        counters = self._counters
        forwarded, dead = counters.forwarded, counters.dead
        with self._traced(batch) as span:
            if span is not None:
                batch = span.batch
            events = batch.events
            outcome = await self._result_of(step, events, ticket, span)
            attribution = account(events, outcome, step.drop_reason) if batch.wants_fates else None
            counters.count(step, events, outcome, attribution)
            if outcome.refused:
                letters += self._bury(outcome)
            trail.append(Passed(self._numbers[0], step, events, outcome, [], attribution))
            wait = self._hand_on(outgoing(batch, outcome.events, trail, changed=True)) if outcome.events else None
            if span is not None:
                span.settle(counters.forwarded - forwarded, counters.dead - dead)
        return wait

    async def _result_of(self, step: Overlapping, events: list[Any], ticket: Ticket, span: StageSpan | None) -> Outcome:
        """Return what the step makes of the events of a batch, when all batches before it have gone on."""
        name = self.steps[0]
        if self.tap is not None:
            self.tap.show(What.IN, events, step=name)
        with contextlib.nullcontext() if span is None else span.current():
            work = step.submit(events)
        outcome = await work
        await ticket.wait()
        if self.tap is not None:
            show(self.tap, name, events, outcome, step.drop_reason)
        return outcome

    @contextlib.contextmanager
    def _traced(self, batch: Batch) -> Iterator[StageSpan | None]:
        if self._tracer is None:
            yield None
        else:
            with self._tracer.stage(self._name, batch) as span:
                yield span


def overlaps(step: object) -> TypeIs[Overlapping]:
    """Return whether a step works on several batches at once."""
    return hasattr(step, "submit")
