"""The running form of the PluginSlot: the plugin that is registered at the moment, or nobody."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch
from polku.contracts import Failure
from polku.errors import RetryableError
from polku.external.callback import Callback
from polku.external.client import PluginState
from polku.external.plugin_emitter import PluginEmitter

if TYPE_CHECKING:
    from polku.external.plugin_slot import PluginSlot

_PATIENCE = 50.0  # seconds that one attempt waits for a plugin: while it does, no backoff delays the plugin that comes


class RunningSlot:
    """Emit to whoever is assigned."""

    def __init__(self, config: PluginSlot) -> None:
        self.concurrency = config.concurrency
        self._config = config
        self._where: Callback | None = None
        self._plugin: PluginEmitter | None = None
        self._assigned = asyncio.Event()
        self._tasks = TaskSet(f"slot {config.name!r}")

    async def assign(self, where: Callback | None) -> None:
        """Use the plugin there from now on, or none; the same one again changes nothing.

        The one before answers for the batches that it has, beside whoever comes.
        """
        if where == self._where:
            return
        self._where = where
        before, self._plugin = self._plugin, None
        self._assigned.clear()
        if where is not None:
            self._plugin = PluginEmitter(self._config.emitter(where))
            await self._plugin.start()
            self._assigned.set()
        if before is not None:
            self._tasks.start("disconnecting", before.disconnect())

    async def emit(self, batch: Batch) -> list[Failure]:
        """Hand the batch to the plugin; waits a while where there is none, then raises `RetryableError`."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._assigned.wait()
        except TimeoutError:
            raise RetryableError(self._nobody()) from None
        if self._plugin is None:
            raise RetryableError(self._nobody())
        return await self._plugin.emit(batch)

    async def close(self) -> None:
        """Let the plugin finish, and close the connection."""
        plugin, self._plugin = self._plugin, None
        if plugin is not None:
            await plugin.close()
        await self._tasks.close()

    def statistics(self) -> PluginState:
        """Return how the plugin is."""
        if self._plugin is None:
            return PluginState(self._nobody(), self._nobody(), 0, 0, 0)
        return self._plugin.statistics()

    def _nobody(self) -> str:
        return f"no plugin is registered for PluginSlot({self._config.name!r})"
