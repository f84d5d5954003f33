"""Where batches lie while outlets still need them, by position, each held once whatever the number of outlets."""

from __future__ import annotations

from typing import Protocol

from polku.batch.batch import Batch, Header
from polku.buffer.strategy import BufferStrategy, Kind


class Store(Protocol):
    """Keep batches until they are dropped."""

    async def put(self, batch: Batch) -> int:
        """Keep a batch and return its position; positions rise."""
        ...

    async def get(self, position: int) -> Batch:
        """Return the batch at a position."""
        ...

    def drop(self, position: int) -> None:
        """Release a batch that no outlet needs any more."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """The events and bytes that are held now."""
        ...


class RingStore:
    """Keep batches in memory, as bytes."""

    def __init__(self) -> None:
        self._batches: dict[int, Batch] = {}
        self._position = 0
        self._events = self._bytes = 0

    async def put(self, batch: Batch) -> int:
        """Keep a batch and return its position."""
        self._position += 1
        self._batches[self._position] = batch
        self._events += len(batch)
        self._bytes += batch.size
        return self._position

    async def get(self, position: int) -> Batch:
        """Return the batch at a position."""
        return self._batches[position]

    def drop(self, position: int) -> None:
        """Release a batch."""
        batch = self._batches.pop(position)
        self._events -= len(batch)
        self._bytes -= batch.size

    @property
    def size(self) -> tuple[int, int]:
        """The events and bytes that are held now."""
        return self._events, self._bytes


class TieredStore:
    """Keep the first `primary` events in memory as they are, and what comes on top of them zstd-compressed.

    A batch stays in the tier that it was put in; positions keep the order. Sizes count what is really held, so
    compressed batches count by their compressed bytes.
    """

    def __init__(self, primary: int) -> None:
        import backports.zstd as zstd

        self._zstd = zstd
        self._primary = primary
        self._plain = RingStore()
        self._packed: dict[int, tuple[Header, bytes]] = {}
        self._packed_events = self._packed_bytes = 0
        self._position = 0
        self._plain_positions: dict[int, int] = {}

    async def put(self, batch: Batch) -> int:
        """Keep a batch, compressed where the first tier is full."""
        self._position += 1
        if self._plain.size[0] + len(batch) <= self._primary:
            self._plain_positions[self._position] = await self._plain.put(batch)
            return self._position
        packed = self._zstd.compress(batch.payload)
        self._packed[self._position] = (batch.header, packed)
        self._packed_events += len(batch)
        self._packed_bytes += len(packed)
        return self._position

    async def get(self, position: int) -> Batch:
        """Return the batch at a position, decompressed where it has to be."""
        if position in self._plain_positions:
            return await self._plain.get(self._plain_positions[position])
        header, packed = self._packed[position]
        return Batch.from_wire(header, self._zstd.decompress(packed))

    def drop(self, position: int) -> None:
        """Release a batch."""
        if position in self._plain_positions:
            self._plain.drop(self._plain_positions.pop(position))
            return
        header, packed = self._packed.pop(position)
        self._packed_events -= header.events
        self._packed_bytes -= len(packed)

    @property
    def size(self) -> tuple[int, int]:
        """The events and bytes that are held now."""
        events, size = self._plain.size
        return events + self._packed_events, size + self._packed_bytes


def open_store(strategy: BufferStrategy) -> Store:
    """Make the store that a strategy asks for."""
    return TieredStore(strategy.primary) if strategy.kind is Kind.TIERED else RingStore()
