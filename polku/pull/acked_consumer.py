"""The life of a consumer of a server that wants an acknowledgement for each message, from run to close."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from polku.contracts import PulledStream
from polku.errors import DrainingError
from polku.log import RepeatedLog
from polku.pull.in_flight import InFlight

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds before what failed is tried again, doubled each time."""

_DRAIN_SECONDS = 5.0  # for acknowledgements, where the server does not answer


class AckedConsumer(ABC):
    """Pull, and beside that acknowledge what is in the pipeline; `log` is where it says what goes wrong.

    At most about `window` messages and `window_bytes` bytes are in flight.
    """

    def __init__(self, server: str, window: int, window_bytes: int, log: RepeatedLog) -> None:
        self._server = server
        self._window = window, window_bytes
        self._log = log
        self._in_flight = InFlight(*self._window)
        self._news = asyncio.Event()
        self._stopped = asyncio.Event()
        self._acknowledging = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._records = self._commits = self._lag = 0
        self._fault = ""

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        """Pull until `stop`, and acknowledge until `drain` or `close`."""
        self._open(open_stream)
        self._in_flight = InFlight(*self._window)
        self._keeping = asyncio.ensure_future(self._keep())
        self._keeping.add_done_callback(self._ended_keeping)
        try:
            async with self._reading:
                await self._pull()
        except DrainingError:
            pass
        except BaseException:
            self._keeping.cancel()
            raise

    def stop(self) -> None:
        """Pull nothing more."""
        self._stopped.set()

    async def drain(self) -> None:
        """Wait until everything that was pulled is in, and acknowledge it."""
        self.stop()
        async with self._reading:
            await self._in_flight.idle()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not await self._acknowledge():  # noqa: ASYNC110 - the server tells nobody that it is back
                    await asyncio.sleep(FIRST_PAUSE)
                await self._leave()
        except Exception as error:
            if not self._is_of_server(error):
                raise
            self._log.warning(
                "drain", "%s: what is not acknowledged will be delivered again: %s", self._server, self._fault
            )
        await self.close()

    async def close(self) -> None:
        """Close the connection; what is still in flight is delivered again."""
        self.stop()
        if self._keeping is not None:
            self._keeping.cancel()
        await self._disconnect()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not after `stop`."""
        await _wait_within(self._stopped, seconds)

    async def _hear_news(self, seconds: float) -> None:
        """Wait for something to acknowledge."""
        await _wait_within(self._news, seconds)
        self._news.clear()

    def _ended_keeping(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._in_flight.fail(error)

    def _is_of_server(self, error: Exception) -> bool:
        """Return whether an error says that the server, or the way to it, has failed."""
        return isinstance(error, OSError)

    @abstractmethod
    def _open(self, open_stream: Callable[..., PulledStream]) -> None:
        """Open the streams that messages are handed in by, and forget what was in flight in an earlier run."""

    @abstractmethod
    async def _pull(self) -> None:
        """Pull and hand in until `stop`."""

    @abstractmethod
    async def _keep(self) -> None:
        """Acknowledge what is in, and keep what is in flight from being delivered again, until it is cancelled."""

    @abstractmethod
    async def _acknowledge(self) -> bool:
        """Acknowledge what is in; return whether all of it is."""

    async def _leave(self) -> None:  # noqa: B027 - most have nothing to do then
        """Say goodbye, once everything is acknowledged."""

    @abstractmethod
    async def _disconnect(self) -> Any:
        """Close the connection, if there is one."""


async def _wait_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
