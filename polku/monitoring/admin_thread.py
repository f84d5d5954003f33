"""A thread for the admin address: it answers while user code blocks the event loop of the pipeline."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from polku.aio import loop_thread
from polku.aio.pulse import Pulse
from polku.health import Health
from polku.monitoring.address import Admin
from polku.monitoring.admin import AdminServer
from polku.tap.redaction import Redaction

if TYPE_CHECKING:
    from polku.buffer.copies import Found
    from polku.dead_letters import DeadLetter, LetterVerb
    from polku.dead_letters.store import Selection
    from polku.monitoring.statistics import PipelineStatistics
    from polku.runtime import Runtime
    from polku.runtime.reloading import Reloader
    from polku.tap.request import TapReply, TapRequest

T = TypeVar("T")
_BEAT_SECONDS = 1.0  # between two questions to the pipeline's event loop
_CLOSE_SECONDS = 1.0


class AdminThread:
    """Serve the admin address of a runtime from an event loop of its own; make it on the pipeline's."""

    def __init__(self, admin: Admin, runtime: Runtime, redaction: Redaction, reloader: Reloader | None = None) -> None:
        self._runtime = runtime
        self._pulse = Pulse(asyncio.get_running_loop())
        self.key = secrets.token_urlsafe(24)
        opened = {name: address for name, address in runtime.addresses._asdict().items() if address}
        self._server = AdminServer(
            admin,
            self._statistics,
            self._health,
            self._pulse.stuck,
            opened,
            events=_Events(runtime),
            redaction=redaction,
            key=self.key,
            reloader=reloader,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="polku-admin", daemon=True)

    async def start(self) -> str | None:
        """Open the address, and return it, like `AdminServer.start`."""
        self._thread.start()
        address = None
        try:
            address = await self._there(self._server.start())
        finally:
            if address is None:
                await self.close()
        self._loop.call_soon_threadsafe(self._beat)
        return address

    async def close(self) -> None:
        """Close the port and the connections, and end the thread."""
        if not self._loop.is_closed():
            await self._there(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _close(self) -> None:
        await self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_CLOSE_SECONDS)

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _beat(self) -> None:
        self._pulse.stuck()
        self._loop.call_later(_BEAT_SECONDS, self._beat)

    async def _statistics(self) -> PipelineStatistics:
        now = self._runtime.statistics_nowait()
        if now is not None:
            return now
        return await asyncio.wrap_future(loop_thread.submit(self._runtime.statistics()))

    async def _health(self) -> Health:
        now = self._runtime.health_nowait()
        if now is not None:
            return now
        return await asyncio.wrap_future(loop_thread.submit(self._runtime.health()))


class _Events:
    """The events of a runtime, for who asks from another event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def tap(self, request: TapRequest) -> list[TapReply]:
        return await asyncio.wrap_future(loop_thread.submit(self._runtime.tap(request)))

    async def find(self, event_id: str) -> Found:
        return await asyncio.wrap_future(loop_thread.submit(self._runtime.find(event_id)))

    async def dead_letters(self, selection: Selection | None = None) -> list[DeadLetter]:
        return await asyncio.wrap_future(loop_thread.submit(self._runtime.dead_letters(selection)))

    async def change_dead_letters(self, verb: LetterVerb, selection: Selection) -> int:
        return await asyncio.wrap_future(loop_thread.submit(self._runtime.change_dead_letters(verb, selection)))
