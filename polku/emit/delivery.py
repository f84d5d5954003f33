"""The receiving side of an emitter: batches in, the destination's confirmation out."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from polku.aio.slices import few_in_turns
from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt, Refusal, located
from polku.busy import Busy, WorkTime
from polku.codes import Code
from polku.contracts import Emitter, Failure
from polku.emit.behind import WaitingBatch, WaitingBatches, delivering_before
from polku.emit.parts import place
from polku.emit.retry import Retry
from polku.errors import RejectedError
from polku.hooks import CLOSE_SECONDS, call_hook, snapshot_of, start_hook
from polku.log import RepeatedLog
from polku.recent_errors import RecentErrors, SeenError
from polku.text import named, said
from polku.usercode import as_exception, is_ours

if TYPE_CHECKING:
    from polku.external.callback import Callback
    from polku.tracing.tracer import Tracer

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_LONGEST_PAUSE = 5.0  # seconds between two tries to start an emitter


class DeliveryStatistics(Struct, frozen=True):
    """Count events and calls; `emitter` is the emitter's own snapshot, where it has one.

    `collection` shows what is held for an emitter that collects. `fault` is why it takes nothing, where it cannot start
    or its call fails; `errors` are the latest of its calls and starts.
    """

    confirmed: int
    failed: int
    calls: int
    in_flight: int
    emitter: object
    collection: CollectionStatistics | None = None
    fault: str = ""
    errors: Sequence[SeenError] = ()
    work: WorkTime = WorkTime()


class CollectionStatistics(Struct, frozen=True):
    """Show what is collected: groups that are open, events and bytes without a confirmation, the oldest's `max_age`.

    `early` counts groups that were completed before they were full or old, for want of room or at a drain.
    """

    groups: int
    events: int
    bytes: int
    early: int
    max_age: float


class Delivery:
    """Call a running emitter, so many times at once as it allows, in the order of arrival."""

    def __init__(self, name: str, emitter: Emitter, tracer: Tracer | None = None) -> None:
        self.name = name
        self._emitter = emitter
        self._tracer = tracer
        if tracer is not None and hasattr(emitter, "tracer"):  # it makes several calls of one
            self._tracer, emitter.tracer = None, tracer
        self._places = asyncio.Semaphore(getattr(emitter, "concurrency", 1))
        self._confirmed = self._failed = self._calls = self._in_flight = 0
        self._pauses = Retry(limit=_LONGEST_PAUSE)
        self._starting: asyncio.Task[None] | None = None
        self._start_error: Exception | None = None
        self._fault = ""
        self._errors = RecentErrors()
        self._is_released = False
        self._busy = Busy()
        self._waiting = WaitingBatches()

    async def start(self) -> None:
        """Start the emitter, and raise what its `start` raises: at the start of a pipeline."""
        await start_hook(f"emitter {self.name!r}", self._emitter)

    async def start_again(self) -> None:
        """Start the emitter in a new life of its process; what it raises is tried again until it does not.

        Batches wait meanwhile, as for a destination that is down.
        """
        if not await self._try_to_start():
            self._starting = asyncio.get_running_loop().create_task(self._keep_starting())

    @property
    def start_error(self) -> Exception | None:
        """What the emitter's `start` raised, until it works."""
        return self._start_error

    async def push(self, batch: Batch) -> Answer:
        """Return once the destination has confirmed the batch; the receipt names the events that it rejected.

        A waiting batch is accepted early while the emitter probes with other events.
        """
        if not self._waiting and not self._places.locked():
            return await self.deliver(batch)
        waiting = self._waiting.add(batch)
        return await self._waiting.answer(waiting, self._deliver_waiting(waiting))

    async def deliver(self, batch: Batch) -> Receipt:
        """Call the emitter, when it is this batch's turn, and return what became of it."""
        return await self._deliver_waiting(self._waiting.add(batch))

    async def _deliver_waiting(self, waiting: WaitingBatch) -> Receipt:
        batch = waiting.batch
        try:
            async with self._places:
                if self._starting is not None:
                    await asyncio.wait([self._starting])
                self._waiting.remove(waiting)
                failures = await self._emit_left(waiting)
        finally:
            self._waiting.remove(waiting)
        refusals: list[Refusal] = []
        if failures:
            async for some in few_in_turns(failures):
                refusals += map(self._refusal, some)
        refused = located(refusals, batch)
        self._failed += sum(refusal.code is Code.UNDELIVERED for refusal in refused)
        self._confirmed += len(batch) - len(refused)
        return Receipt(refused)

    async def _emit_left(self, waiting: WaitingBatch) -> list[Failure]:
        """Call the emitter with what it has not taken ahead of its turn."""
        batch, left = waiting.batch, waiting.left if waiting.taken else None
        if left is not None:
            batch = batch.select(left)
        if not len(batch):
            return []
        self._calls += 1
        self._in_flight += 1
        self._busy.begin()
        try:
            with delivering_before(self._waiting):
                failures = await self._emit(batch)
        finally:
            self._busy.end()
            self._in_flight -= 1
        return failures if left is None else place(failures, batch.ids, left)

    def add_counts(self, before: DeliveryStatistics) -> None:
        """Count what another one, whose place this takes, has done as done here."""
        self._confirmed += before.confirmed
        self._failed += before.failed
        self._calls += before.calls

    def release(self) -> None:
        """Answer what is in flight, at a drain whose time is up: `UNAVAILABLE` where nothing is confirmed."""
        self._is_released = True
        if self._starting is not None:
            self._starting.cancel()
        release = getattr(self._emitter, "release_calls", None)
        if callable(release):
            release()

    def _refusal(self, failed: Failure) -> Refusal:
        code = self._code(failed)
        return Refusal(failed.event_id, code, failed.reason, failed.attempts, failed.position, detail=failed.detail)

    def _code(self, failure: Failure) -> Code:
        return Code.UNAVAILABLE if self._is_released and failure.retryable else Code.UNDELIVERED

    async def flush(self, everything: bool) -> None:
        """Do nothing: nothing is held here."""

    async def assign(self, where: Callback | None) -> None:
        """Tell an emitter that is a place for a plugin where its plugin is, or that there is none."""
        slot: Any = getattr(self._emitter, "inner", self._emitter)
        await slot.assign(where)

    async def close(self) -> None:
        """Close the emitter."""
        self._waiting.close()
        if self._starting is not None:
            self._starting.cancel()
        await call_hook(self._emitter, "close", seconds=CLOSE_SECONDS)

    def statistics(self) -> DeliveryStatistics:
        """Return a snapshot of the counters."""
        snapshot = snapshot_of(self._emitter)
        counts = (self._confirmed, self._failed, self._calls, self._in_flight)
        return DeliveryStatistics(
            *counts, snapshot, fault=self._fault, errors=self._errors.latest(), work=self._busy.work()
        )

    async def _emit(self, batch: Batch) -> list[Failure]:
        """Call the emitter until it answers; what it raises itself concerns no event, so nothing is given up for it."""
        if self._start_error is not None:  # it is released, or closed, before it could start
            return [Failure(event_id, self._fault) for event_id in batch.ids]
        for attempt in count(1):
            try:
                failures = await (self._call(batch) if self._tracer is None else self._trace(self._tracer, batch))
                self._fault = ""
                return failures
            except RejectedError as error:
                return [Failure(event_id, said(error), retryable=False) for event_id in batch.ids]
            except BaseException as error:
                if is_ours(error):
                    raise
                self._note_fault("its call failed", error)
            if self._is_released:
                return [Failure(event_id, self._fault) for event_id in batch.ids]
            await asyncio.sleep(self._pauses.delay(attempt))
        raise AssertionError("unreachable")

    async def _call(self, batch: Batch) -> list[Failure]:
        result = self._emitter.emit(batch)
        return list((await result if inspect.isawaitable(result) else result) or ())

    async def _trace(self, tracer: Tracer, batch: Batch) -> list[Failure]:
        with tracer.attempt(self.name, batch) as attempt:
            failures = await self._call(attempt.batch)
            attempt.settle(len(failures))
        return failures

    async def _keep_starting(self) -> None:
        for attempt in count(1):
            await asyncio.sleep(self._pauses.delay(attempt))
            if await self._try_to_start():
                return

    async def _try_to_start(self) -> bool:
        try:
            await self.start()
        except BaseException as error:
            if is_ours(error):
                raise
            self._start_error = as_exception(error)
            self._note_fault("cannot start", error)
            return False
        self._start_error, self._fault = None, ""
        return True

    def _note_fault(self, what: str, error: BaseException) -> None:
        self._fault = f"{what}: {named(error)}"
        self._errors.add(self._fault)
        about = f"emitter:{self.name}"
        _REPEATED.warning(
            (self.name, what), "emitter %r %s; it is tried again", self.name, self._fault, component=about
        )
