"""What is known about one assigned partition: what waits, what is in flight, and how far it may be committed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, islice
from operator import ne, or_
from typing import Any, NamedTuple, TypeAlias

from polku.contracts import PulledStream
from polku.kafka.encoding import RecordEncoder

_CHUNK_RECORDS = 1_000
_CHUNK_BYTES = 512 * 1024


OnRestart: TypeAlias = Callable[[int, int], None]
"""Called with the offset that was expected and the lower one that came."""


class Chunk(NamedTuple):
    """Records that leave together, and their size in bytes."""

    messages: list[Any]
    size: int


class _Waiting(NamedTuple):
    messages: Sequence[Any]
    sizes: Sequence[int]

    def fitting(self, records: int, size: int, *, least: bool) -> int:
        """Return how many of these fit into that many records and bytes, at least one where that is asked for."""
        if len(self.sizes) <= records and sum(self.sizes) <= size:
            return len(self.sizes)
        for count, own in enumerate(self.sizes[:records]):
            size -= own
            if size < 0 and (count or not least):
                return count
        return min(records, len(self.sizes))


class _Flying(NamedTuple):
    end: int
    records: int
    bytes: int
    answer: asyncio.Future[None]


class Partition:
    """Keep the records of one partition in order, and count what is not answered yet."""

    def __init__(
        self,
        stream: PulledStream,
        on_restart: OnRestart = lambda before, offset: None,
        encoder: RecordEncoder | None = None,
    ) -> None:
        self.stream = stream
        self.encoder = encoder  # where its records can be read many at a time
        self._on_restart = on_restart
        self.next = -1  # the offset after the last record that came
        self.answered = -1  # every record below it is in: it may be committed
        self.requested = -1  # the commit that is in flight
        self.committed = -1
        self.records = self.bytes = 0
        self.paused = False
        self._inbox: deque[_Waiting] = deque()
        self._flying: deque[_Flying] = deque()
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

    def arrived(self, messages: Sequence[Any]) -> None:
        """Take records in.

        Offsets go back where a topic was made again under its name, or where its brokers lost records: what comes then
        is new. A record that came before all the same is repeated, which is no loss.
        """
        offsets = [message.offset() for message in messages]
        if offsets[0] < self.next or offsets != sorted(offsets):
            self._notice_restarts(offsets)
        self.next = offsets[-1] + 1
        sizes = list(map(len, messages))
        self.records += len(sizes)
        self.bytes += sum(sizes)
        self._inbox.append(_Waiting(messages, sizes))
        self._idle.clear()
        self._news.set()

    def _notice_restarts(self, offsets: Sequence[int]) -> None:
        following = self.next
        for offset in offsets:
            if offset < following:
                self._on_restart(following, offset)
            following = offset + 1

    async def chunk(self) -> Chunk:
        """Return the next records, once there are some."""
        while not self._inbox:
            self._news.clear()
            await self._news.wait()
        messages: list[Any] = []
        size = 0
        while self._inbox and len(messages) < _CHUNK_RECORDS:
            waiting = self._inbox.popleft()
            count = waiting.fitting(_CHUNK_RECORDS - len(messages), _CHUNK_BYTES - size, least=not messages)
            messages += waiting.messages[:count]
            size += sum(waiting.sizes[:count])
            if count < len(waiting.sizes):
                self._inbox.appendleft(_Waiting(waiting.messages[count:], waiting.sizes[count:]))
                break
        return Chunk(messages, size)

    def left(self, chunk: Chunk, answer: asyncio.Future[None]) -> None:
        """Know that records are in flight until their answer is there."""
        messages, size = chunk
        self._flying.append(_Flying(messages[-1].offset() + 1, len(messages), size, answer))

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
        for waiting in self._inbox:
            self.records -= len(waiting.sizes)
            self.bytes -= sum(waiting.sizes)
        self._inbox.clear()
        if not self.records:
            self._idle.set()

    async def idle(self) -> None:
        """Return when everything that left is answered, or will never be."""
        await self._idle.wait()


def split_places(messages: Sequence[Any]) -> Iterator[tuple[tuple[str, int], Sequence[Any]]]:
    """Cut records, none of them an error, into runs of one topic and partition each."""
    topics, partitions = [each.topic() for each in messages], [each.partition() for each in messages]
    changes = map(ne, partitions, islice(partitions, 1, None))
    if topics and topics.count(topics[0]) < len(topics):
        changes = map(or_, changes, map(ne, topics, islice(topics, 1, None)))
    ends = [*compress(range(1, len(messages)), changes), len(messages)]
    start = 0
    for end in ends:
        if start < end:
            yield (topics[start], partitions[start]), messages[start:end]
        start = end
