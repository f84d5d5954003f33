"""The receiving side of an emitter: batches in, the destination's confirmation out."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable
from typing import Any, NamedTuple

from polku.batch import Batch
from polku.codes import Code
from polku.contracts import Emitter, Failure
from polku.errors import EmitError
from polku.receipt import Receipt, Refusal


class DeliveryStatistics(NamedTuple):
    """Count events and calls; `emitter` is the emitter's own snapshot, where it has one.

    `collection` shows what is held for an emitter that collects.
    """

    confirmed: int
    failed: int
    calls: int
    in_flight: int
    emitter: object
    collection: CollectionStatistics | None = None


class CollectionStatistics(NamedTuple):
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

    def __init__(self, name: str, emitter: Emitter) -> None:
        self.name = name
        self._emitter = emitter
        self._places = asyncio.Semaphore(getattr(emitter, "concurrency", 1))
        self._confirmed = self._failed = self._calls = self._in_flight = 0

    async def start(self) -> None:
        """Start the emitter; a destination that is down is no error here."""
        await call_hook(self._emitter, "start")

    async def push(self, batch: Batch) -> Receipt | Awaitable[Receipt]:
        """Return when the destination has confirmed the batch; the receipt names what it refused for good."""
        return await self.deliver(batch)

    async def deliver(self, batch: Batch) -> Receipt:
        """Call the emitter, when it is this batch's turn, and return what became of it."""
        async with self._places:
            self._calls += 1
            self._in_flight += 1
            try:
                failures = await self._emit(batch)
            finally:
                self._in_flight -= 1
        self._failed += len(failures)
        self._confirmed += len(batch) - len(failures)
        return Receipt(tuple(Refusal(f.event_id, Code.UNDELIVERED, f.reason, f.attempts) for f in failures))

    async def flush(self, everything: bool) -> None:
        """Do nothing: nothing is held here."""

    async def assign(self, address: str | None) -> None:
        """Tell an emitter that is a place for a plugin where its plugin is, or that there is none."""
        slot: Any = getattr(self._emitter, "inner", self._emitter)
        await slot.assign(address)

    async def close(self) -> None:
        """Close the emitter."""
        await call_hook(self._emitter, "close")

    def statistics(self) -> DeliveryStatistics:
        """Return a snapshot of the counters."""
        own = getattr(self._emitter, "statistics", None)
        snapshot = own() if callable(own) else None
        return DeliveryStatistics(self._confirmed, self._failed, self._calls, self._in_flight, snapshot)

    async def _emit(self, batch: Batch) -> list[Failure]:
        try:
            result = self._emitter.emit(batch)
            failures = await result if inspect.isawaitable(result) else result
            return list(failures or ())
        except EmitError as error:
            return [Failure(event_id, str(error), retryable=False) for event_id in batch.ids]
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"
            return [Failure(event_id, reason, retryable=False) for event_id in batch.ids]


async def call_hook(component: object, hook: str) -> None:
    """Call an optional hook of a component, sync or async."""
    method: Any = getattr(component, hook, None)
    if callable(method):
        result = method()
        if inspect.isawaitable(result):
            await result
