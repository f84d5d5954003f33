"""What holders (an Aggregator) keep back in a stage: whose events those are, and when they are due.

```text
                  hold                      flush: due, full, or all           receipt
 a batch's rest ───────► kept by a holder ─────────────────────────► on its way ───────► the batches are answered,
                                                                                          each when its last event is
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import reduce
from typing import TYPE_CHECKING

from msgspec import Struct, field

from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, join_traces
from polku.batch.fates import Attribution, merged
from polku.batch.receipt import Fate, Receipt, Refusal, weightier
from polku.clock import Clock
from polku.contracts import Flush, Holder, Step
from polku.errors import DrainingError
from polku.event.v1.event_pb2 import Event
from polku.usercode import as_exception, is_ours

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_TIMER = "flush timer"


class _Holding(Struct):
    """The events of one batch that a holder keeps, and what became of those it released."""

    remaining: int
    done: asyncio.Future[Receipt]
    wants_fates: bool
    enqueued_ns: int
    trace: str
    refused: list[Refusal] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)


class Holdings:
    """Answer the batches whose events the holders of one stage keep, and have what is due released.

    `release` hands on what a holder has released from a position on; it is called within `turn`. `accepts_first`
    is whether the stage answers `Accepted` before it has an outcome: a holder here or something behind it holds events.
    """

    def __init__(
        self,
        clock: Clock,
        turn: asyncio.Lock,
        release: Callable[[Sequence[Flush], int], Awaitable[None]],
        *,
        holds_behind: bool,
    ) -> None:
        self._clock = clock
        self._turn = turn
        self._release = release
        self._holds_behind = holds_behind
        self._holders: tuple[tuple[int, Holder], ...] = ()  # each with its position among the steps
        self.accepts_first = holds_behind
        self._holdings: dict[int, _Holding] = {}  # by the batch's number
        self._held_something = asyncio.Event()
        self._tasks = TaskSet("stage")

    def know(self, steps: Sequence[Step | Holder]) -> None:
        """Look after the holders among these steps."""
        self._holders = tuple((position, step) for position, step in enumerate(steps) if is_holder(step))
        self.accepts_first = self._holds_behind or bool(self._holders)

    def begin(self) -> None:
        """Begin to flush held events when they are due, where there is a holder."""
        if self._holders and not len(self._tasks):
            self._tasks.keep_alive(_TIMER, self._flush_when_due)

    def look_again(self) -> None:
        """Find out again when the next events are due, where there is a holder."""
        self.begin()
        if self._holders:
            self._held_something.set()

    @property
    def fault(self) -> str:
        """What does not work in the background; empty where all is well."""
        return self._tasks.fault

    @property
    def held(self) -> int:
        """The number of events that are held now."""
        return sum(holder.held[0] for _, holder in self._holders)

    async def hold(
        self, holder: Holder, batch: Batch, events: list[Event], number: int, position: int
    ) -> asyncio.Future[Receipt]:
        """Hand the rest of a batch to the holder at a position, and return the future of what becomes of it."""
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._holdings[number] = _Holding(len(events), done, batch.wants_fates, batch.enqueued_ns, batch.trace)
        await self._release(holder.hold(events, number), position + 1)
        if any(held > limit for held, limit in zip(holder.held, holder.limit, strict=True)):
            await self._release(holder.flush(everything=True), position + 1)
        self._held_something.set()
        return done

    def forget(self, number: int) -> None:
        """Answer nothing about a batch that failed on its way to a holder."""
        self._holdings.pop(number, None)

    def label(self, batch: Batch, flush: Flush) -> None:
        """Give a batch that is made of a flush what it has of the batches that its events came in."""
        numbers = {part.batch for part in flush.parts}
        held = [self._holdings[number] for number in numbers if number in self._holdings]
        batch.wants_fates = True in [holding.wants_fates for holding in held]
        batch.enqueued_ns = min([holding.enqueued_ns for holding in held], default=0)
        batch.trace = join_traces([holding.trace for holding in held if holding.trace])

    def answer(self, flush: Flush, batch: Batch, outcome: asyncio.Future[Receipt]) -> None:
        """Answer the batches that a flush was made of when there is an outcome of what it became."""
        attribution = merged(len(flush.events), len(flush.parts)) if batch.wants_fates else None
        self._tasks.start("answers", self._discharge(flush, outcome, attribution))

    async def flush_all(self, *, but: Collection[int] = ()) -> None:
        """Have every holder release all that it holds, except those with these ids (of `id`); within `turn`."""
        await self._flush_each(everything=True, but=but)

    async def close(self) -> None:
        """Stop the flush timer; what is held fails with `DrainingError`."""
        await self._tasks.close()
        for holding in self._holdings.values():
            if not holding.done.done():
                holding.done.set_exception(DrainingError("the stage was closed"))
                holding.done.exception()  # its sender may be closed too

    async def _discharge(self, flush: Flush, outcome: asyncio.Future[Receipt], attribution: Attribution | None) -> None:
        """Tell the batches that a flush was made of what became of it."""
        try:
            receipt = await outcome
        except BaseException as error:
            if is_ours(error):
                raise
            for part in flush.parts:
                holding = self._holdings.pop(part.batch, None)
                if holding is not None and not holding.done.done():
                    holding.done.set_exception(as_exception(error))
            return
        why = reduce(weightier, receipt.refused) if receipt.refused else None
        for at, what, number in [] if attribution is None else attribution.trace_back(receipt.fates):
            part = flush.parts[at]
            if part.batch in self._holdings:
                self._holdings[part.batch].fates.append((part.position, what, number))
        for part in flush.parts:
            holding = self._holdings.get(part.batch)
            if holding is None:
                continue
            if why is not None:
                holding.refused.append(why._replace(position=part.position))
            holding.remaining -= 1
            if holding.remaining == 0:
                del self._holdings[part.batch]
                answer = receipt._replace(refused=tuple(holding.refused), fates=tuple(holding.fates))
                holding.done.set_result(answer)

    async def _flush_when_due(self) -> None:
        while True:
            due = min((at for _, holder in self._holders if (at := holder.due()) is not None), default=None)
            self._held_something.clear()
            if due is None:
                self._tasks.works(_TIMER)
            wait = None if due is None else max(0.0, due - self._clock.monotonic())
            if wait != 0.0:
                try:
                    await asyncio.wait_for(self._held_something.wait(), wait)
                except TimeoutError:
                    pass
                else:
                    continue
            async with self._turn:
                await self._flush_each()
            self._tasks.works(_TIMER)

    async def _flush_each(self, *, everything: bool = False, but: Collection[int] = ()) -> None:
        """Have every holder release what is due, or everything; raise what one failed with once the others have."""
        fault: BaseException | None = None
        for position, holder in self._holders:
            if id(holder) in but:
                continue
            try:
                await self._release(holder.flush(everything=everything), position + 1)
            except BaseException as error:
                if is_ours(error):
                    raise
                fault = error
        if fault is not None:
            raise fault


def is_holder(step: Step | Holder) -> TypeIs[Holder]:
    """Return whether a step keeps events back."""
    return hasattr(step, "hold")
