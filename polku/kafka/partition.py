"""What is known about one assigned partition: what waits, what is in flight, and how far it may be committed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from polku.contracts import PulledStream

_CHUNK_RECORDS = 500
_CHUNK_BYTES = 512 * 1024


OnRestart: TypeAlias = Callable[[int, int], None]
"""Called with the offset that was expected and the lower one that came."""


class _Chunk(NamedTuple):
    end: int
    records: int
    bytes: int
    answer: asyncio.Future[None]


class Partition:
    """Keep the records of one partition in order, and count what is not answered yet."""

    def __init__(self, stream: PulledStream, on_restart: OnRestart = lambda before, offset: None) -> None:
        self.stream = stream
        self._on_restart = on_restart
        self.next = -1  # the offset after the last record that came
        self.answered = -1  # every record below it is in: it may be committed
        self.requested = -1  # the commit that is in flight
        self.committed = -1
        self.records = self.bytes = 0
        self.paused = False
        self._inbox: deque[Any] = deque()
        self._flying: deque[_Chunk] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def dirty(self) -> bool:
        """Whether there is something to commit that no commit in flight is about."""
        return self.is_ahead and self.answered != self.requested

    @property
    def is_ahead(self) -> bool:
        """Whether something else may be committed than is: an offset further on, or one of a log that began again."""
        return self.answered >= 0 and self.answered != self.committed

    def arrived(self, message: Any) -> None:
        """Take a record in.

        Offsets go back where a topic was made again under its name, or where its brokers lost records: what comes then
        is new. A record that came before all the same is repeated, which is no loss.
        """
        offset = message.offset()
        if offset < self.next:
            self._on_restart(self.next, offset)
        self.next = offset + 1
        self.records += 1
        self.bytes += _size(message)
        self._inbox.append(message)
        self._idle.clear()
        self._news.set()

    async def chunk(self) -> list[Any]:
        """Return the next records, once there are some."""
        while not self._inbox:
            self._news.clear()
            await self._news.wait()
        chunk: list[Any] = []
        size = 0
        while self._inbox and len(chunk) < _CHUNK_RECORDS:
            size += _size(self._inbox[0])
            if chunk and size > _CHUNK_BYTES:
                break
            chunk.append(self._inbox.popleft())
        return chunk

    def left(self, chunk: Sequence[Any], answer: asyncio.Future[None]) -> None:
        """Know that records are in flight until their answer is there."""
        self._flying.append(_Chunk(chunk[-1].offset() + 1, len(chunk), sum(map(_size, chunk)), answer))

    def settle(self) -> None:
        """Move on past what is answered without a gap. What failed is not passed: it will be pulled again."""
        while self._flying and self._flying[0].answer.done():
            chunk = self._flying[0]
            if chunk.answer.cancelled() or chunk.answer.exception() is not None:
                break
            self._flying.popleft()
            self.answered = chunk.end
            self.records -= chunk.records
            self.bytes -= chunk.bytes
        if not self.records or (self._flying and self._flying[0].answer.done()):
            self._idle.set()

    def give_up(self) -> None:
        """Know that what is not answered by now will not be."""
        self._idle.set()

    def forget_waiting(self) -> None:
        """Drop what has not left yet: it will be pulled again, here or elsewhere."""
        for message in self._inbox:
            self.records -= 1
            self.bytes -= _size(message)
        self._inbox.clear()
        if not self.records:
            self._idle.set()

    async def idle(self) -> None:
        """Return when everything that left is answered, or will never be."""
        await self._idle.wait()


def _size(message: Any) -> int:
    return len(message)
