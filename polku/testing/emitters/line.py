"""Drive an emitter as a pipeline does: through its resilience and its delivery, several batches at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Self

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Receipt
from polku.clock import SystemClock
from polku.emit.adapt import built, emitter_name
from polku.emit.breaker import Breaker
from polku.emit.delivery import Delivery
from polku.emit.resilience import Resilience
from polku.emit.retry import Retry
from polku.events import new_event
from polku.testing.conformance.driven import BrokenError
from polku.testing.emitters.destination import Destination

_QUICK = Retry(first=0.02, limit=0.2)
_LOOK = 0.02


class Line:
    """A running emitter and the batches that are in flight to it."""

    def __init__(self, destination: Destination, *, attempts: int | None = None) -> None:
        component: Any = destination.emitter()
        own = isinstance(component, Resilience)
        retry = replace(_QUICK, attempts=None if getattr(component, "may_recover", False) else attempts)
        quick = component if own else Resilience(component, retry=retry, breaker=Breaker(open_for=0.2))
        self.delivery = Delivery(emitter_name(component), built(quick, SystemClock()))
        self._tasks: list[asyncio.Task[Receipt]] = []

    async def __aenter__(self) -> Self:
        await self.delivery.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def push(self, batch: Batch) -> asyncio.Task[Receipt]:
        """Hand a batch over; the task ends when all of its events are confirmed or refused."""
        task = asyncio.get_running_loop().create_task(self.delivery.deliver(batch))
        self._tasks.append(task)
        return task

    async def confirm(self, batch: Batch) -> None:
        """Hand a batch over and wait until all of it is confirmed."""
        confirmed(await self.push(batch))

    async def close(self) -> None:
        """Close the emitter, as a pipeline does whose time is up, and give up what is in flight."""
        await self.delivery.close()
        await self.abandon()

    async def abandon(self) -> None:
        """Cancel what is in flight, as if the emitter's process had died."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def batch(number: int, size: int = 8) -> Batch:
    """Build a batch that has an identity, as those of a pipeline; events are named `<number>-<place>`."""
    events = [new_event("polku.check", id=f"{number}-{place}", source="polku") for place in range(size)]
    made = Batch.from_events(events, routes=())
    made.identity = Identity("check", 1, number + 1)
    return made


def confirmed(receipt: Receipt) -> None:
    """Make sure that nothing of a batch was refused."""
    if receipt.refused:
        first = receipt.refused[0]
        seen = f"{len(receipt.refused)} events failed, the first ({first.event_id}) with {first.message!r}"
        raise BrokenError(seen, "raise RetryableError, or return retryable Failures, for what may succeed later")


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    while not await true():  # noqa: ASYNC110 - a destination has no event for it
        await asyncio.sleep(_LOOK)


async def still_under_way(tasks: Sequence[asyncio.Task[Receipt]], seconds: float = 0.3) -> None:
    """Make sure that no batch is done, and none gets done within some time."""
    done, _ = await asyncio.wait(tasks, timeout=seconds)
    if done:
        seen = f"emit returned for {len(done)} of {len(tasks)} batches that the destination has not confirmed"
        raise BrokenError(seen, "return from emit when the destination has confirmed, not when it was sent")
