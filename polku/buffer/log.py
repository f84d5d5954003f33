"""The one log that all outlets of a buffer read, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Refusal
from polku.buffer.positions import LogSlot, OutletState
from polku.buffer.remembered import StoredAnswer
from polku.buffer.store import Store, open_store
from polku.buffer.strategy import BufferStrategy, Kind


class Recovered(Struct, frozen=True):
    """What a log held when it was opened: how far each outlet is, and the answers given.

    `takers` returns the positions between two that hold a batch, its number of events, and the outlets that await it.
    """

    outlets: Mapping[str, OutletState]
    answers: Sequence[StoredAnswer]
    takers: Callable[[int, int], Sequence[tuple[int, int, Sequence[str]]]]


OnOpen = Callable[[Recovered], None]


class Log(Protocol):
    """Keep batches until every outlet that they go to has released them.

    A batch is put (it has a place then), committed together with what was put since the last commit (it is held
    then), claimed by each of its outlets, and released by each of them.
    """

    async def open(self, outlets: Sequence[str], on_open: OnOpen) -> None:
        """Open the log; `on_open` is told what it holds, at once or when it can be opened."""
        ...

    async def arrange(self, outlets: Sequence[str], renamed: Mapping[str, str]) -> None:
        """Have these outlets from now on: new ones begin at the end, others are `renamed` (former names by new ones).

        Nothing is put meanwhile. Raises `JournalError`, and then all is as it was.
        """
        ...

    async def forget(self, outlet: str) -> None:
        """Have an outlet no more that has released all of its batches; raises `JournalError`."""
        ...

    async def put(self, batch: Batch, takers: Sequence[str]) -> LogSlot:
        """Give a batch its place."""
        ...

    def commit(self, answer: StoredAnswer | None) -> asyncio.Future[None] | None:
        """Hold what was put since the last commit; None means that it is held already.

        With an answer the push ends here. The future raises `JournalError` where nothing of it is held.
        """
        ...

    def amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        """Add refusals to an answer, before the batch is released."""
        ...

    async def fetch(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches, None where one is damaged; raises `JournalError` where they cannot be read now."""
        ...

    async def peek(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches for who only looks: None where one is damaged, or has been released meanwhile."""
        ...

    async def next_slots(self, outlet: str, after: int, limit: int) -> list[LogSlot]:
        """Return the next places with batches for an outlet."""
        ...

    def claim(self, outlet: str, position: int) -> None:
        """Let an outlet begin with a batch; positions of one outlet rise."""
        ...

    def release(self, outlet: str, position: int) -> None:
        """Let an outlet be done with a batch, in any order."""
        ...

    def weigh(self, batch: Batch) -> int:
        """Return the bytes that holding the batch takes."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """The events and bytes that are held now, each once."""
        ...

    @property
    def fault(self) -> str:
        """Why nothing can be held now; empty where all is well."""
        ...

    @property
    def orphans(self) -> Sequence[OutletState]:
        """The outlets with events in the log for which there is no emitter."""
        ...

    @property
    def commits(self) -> int:
        """The number of transactions that were written so far; 0 where nothing is."""
        ...

    @property
    def window(self) -> int:
        """How many batches an outlet keeps at hand; the rest it asks for with `next_slots`."""
        ...

    async def close(self) -> None:
        """Write what is still to be written and close the files."""
        ...


class MemoryLog:
    """Keep batches in memory: in a ring or in two tiers."""

    fault = ""
    orphans: Sequence[OutletState] = ()
    commits = 0
    window = 1 << 62

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owners: dict[int, int] = {}

    async def open(self, outlets: Sequence[str], on_open: OnOpen) -> None:
        """Do nothing: what was in memory is gone with its process."""

    async def arrange(self, outlets: Sequence[str], renamed: Mapping[str, str]) -> None:
        """Do nothing: names of outlets mean nothing here."""

    async def forget(self, outlet: str) -> None:
        """Do nothing: names of outlets mean nothing here."""

    async def put(self, batch: Batch, takers: Sequence[str]) -> LogSlot:
        """Hold a batch."""
        position = await self._store.put(batch)
        self._owners[position] = len(takers)
        return LogSlot(position, len(batch), batch.size, batch.enqueued_ns)

    def commit(self, answer: StoredAnswer | None) -> None:
        """Say that all is held."""
        return

    def amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        """Do nothing: answers go with the process."""

    async def fetch(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches."""
        return [await self._store.get(position) for position in positions]

    async def peek(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches, None where one has been released."""
        return [await self._store.get(position) if position in self._owners else None for position in positions]

    async def next_slots(self, outlet: str, after: int, limit: int) -> list[LogSlot]:
        """Return nothing: outlets have every place at hand."""
        return []

    def claim(self, outlet: str, position: int) -> None:
        """Do nothing: the outlets of a batch were counted when it was put."""

    def release(self, outlet: str, position: int) -> None:
        """Drop a batch when the last outlet releases it."""
        self._owners[position] -= 1
        if self._owners[position] == 0:
            del self._owners[position]
            self._store.drop(position)

    def weigh(self, batch: Batch) -> int:
        """Return the size of its payload."""
        return batch.size

    @property
    def size(self) -> tuple[int, int]:
        """The events and bytes that are held now, each once."""
        return self._store.size

    async def close(self) -> None:
        """Keep everything as it is."""


def open_log(strategy: BufferStrategy, *, final: bool, formerly: Mapping[str, str] | None = None) -> Log:
    """Make the log that a strategy asks for; with `final` answers are final as soon as the batch is held.

    `formerly` are the names that outlets had before, by the names that they have now.
    """
    if strategy.kind is Kind.DURABLE:
        from polku.buffer.durable import DurableLog

        return DurableLog(strategy.path, final=final, formerly=formerly)
    return MemoryLog(open_store(strategy))
