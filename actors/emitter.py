"""The actor around one emitter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray

from polku.actors.calls import ReceivesBatches, RelaysOutput
from polku.actors.options import ACTOR
from polku.actors.shell import started, unpack
from polku.emit import console
from polku.emit.collect import MAX_BATCHES
from polku.emit.console import RelayConsole
from polku.emit.delivery import Delivery, DeliveryStatistics
from polku.hooks import close_each
from polku.link.receiver import LinkReceiver
from polku.plan import OutletPlan
from polku.runtime.assembly import build_delivery

if TYPE_CHECKING:
    from polku.external.callback import Callback


class EmitterShell(ReceivesBatches, RelaysOutput):
    """Receive the batches of one outlet and hand them to the emitter."""

    async def open(self) -> None:
        """Build the emitter and start it, again and again until that works."""
        outlet: OutletPlan
        outlet, tracing = unpack(self._packed)
        self._console = RelayConsole()
        console.use(self._console)
        self._delivery: Delivery = build_delivery(outlet, tracing=tracing)
        self._receiver = LinkReceiver(self._delivery)
        self._opened.push_async_callback(close_each, [(f"emitter {outlet.name!r}", self._delivery.close)])
        await self._delivery.start_again()

    def check(self) -> None:
        """Raise what the emitter's `start` raised."""
        if self._delivery.start_error is not None:
            raise self._delivery.start_error

    @started
    async def flush(self, everything: bool) -> None:
        """Complete what is collected."""
        await self._delivery.flush(everything)

    @started
    async def assign(self, name: str, where: Callback | None) -> None:
        """Learn where the plugin is that this emitter, of this name, is a place for."""
        await self._delivery.assign(where)

    @started
    async def release(self) -> None:
        """Answer what is in flight with what is confirmed so far."""
        self._delivery.release()

    @started
    async def change(self, number: int, packed: bytes) -> None:
        """Take another name."""
        if number != self._number:
            outlet, _ = unpack(packed)
            self._delivery.name = outlet.name
            self.take_over(number, packed)

    @started
    async def add_counts(self, before: DeliveryStatistics) -> None:
        """Count what the emitter has done whose place this takes."""
        self._delivery.add_counts(before)

    @started
    async def statistics(self) -> DeliveryStatistics:
        """Return a snapshot of the counters."""
        return self._delivery.statistics()


# For each batch that an emitter collects a call waits for its outcome.
EmitterActor = ray.remote(**{**ACTOR, "max_concurrency": 2 * MAX_BATCHES})(EmitterShell)
