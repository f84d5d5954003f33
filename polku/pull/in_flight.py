"""What a source has handed in and what has no answer yet: how much there may be, and which answers there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from polku.errors import DrainingError

T = TypeVar("T")


class InFlight:
    """Count records and bytes without an answer, at most about `records` and `size` of them.

    The first answer that is a failure, and no end of the pipeline, is raised from `room` and `idle`: what it was about
    is in nobody's hands, and the source has to begin again from what is confirmed.
    """

    def __init__(self, records: int, size: int) -> None:
        self.records = self.bytes = 0
        self.answered = 0
        self._most_records = records
        self._most_bytes = size
        self._fault: BaseException | None = None
        self._news = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be handed in now."""
        return self.records >= self._most_records or self.bytes >= self._most_bytes

    async def room(self) -> None:
        """Return when more may be handed in."""
        while self.is_full:
            await self._wait()
        self._raise()

    @property
    def portion(self) -> int:
        """How many records to hand in next: as many as there is room for, but a tenth of all at least."""
        return max(1, self._most_records // 10, self._most_records - self.records)

    async def portions(self, records: Sequence[T]) -> AsyncIterator[Sequence[T]]:
        """Yield records that are read already, in order, each portion when it may be handed in."""
        start = 0
        while start < len(records):
            await self.room()
            end = start + self.portion
            yield records[start:end]
            start = end

    async def idle(self) -> None:
        """Return when everything is answered."""
        while self.records:
            await self._wait()
        self._raise()

    def add(self, answer: Awaitable[None], records: int, size: int, done: Callable[[], None]) -> None:
        """Count records until their answer is there; `done` is called if they are in, or are dead letters."""
        self.records += records
        self.bytes += size
        asyncio.ensure_future(answer).add_done_callback(partial(self._settle, records, size, done))

    def fail(self, error: BaseException) -> None:
        """Raise an error from `room` and `idle`; the first one counts."""
        self._fault = self._fault or error
        self._news.set()

    def _settle(self, records: int, size: int, done: Callable[[], None], answer: asyncio.Future[None]) -> None:
        self.records -= records
        self.bytes -= size
        error = RuntimeError("an answer was cancelled") if answer.cancelled() else answer.exception()
        if error is None:
            self.answered += records
            done()
        elif not isinstance(error, DrainingError):
            self.fail(error)
        self._news.set()

    async def _wait(self) -> None:
        self._raise()
        self._news.clear()
        await self._news.wait()

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault
