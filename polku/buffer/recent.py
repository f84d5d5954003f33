"""The latest batches of a journal, kept in memory so that outlets that are not behind read nothing from the disk."""

from __future__ import annotations

from collections import OrderedDict

from polku.batch.batch import Batch

LIMIT = 16 * 1024 * 1024
"""Bytes of batches that are kept at most."""

_BATCH_COSTS = 1024  # bytes that a batch takes in memory besides its payload


class RecentBatches:
    """Keep each batch until no outlet needs it, or younger ones need its room; used by the event loop alone."""

    def __init__(self) -> None:
        self._batches: OrderedDict[int, Batch] = OrderedDict()  # by position
        self._owners: dict[int, int] = {}  # the number of outlets that still need it
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._batches)

    def keep(self, position: int, batch: Batch, owners: int) -> None:
        """Keep a batch that so many outlets will read."""
        self._batches[position] = batch
        self._owners[position] = owners
        self._bytes += batch.size + _BATCH_COSTS
        while self._bytes > LIMIT and len(self._batches) > 1:
            self.forget(next(iter(self._batches)))

    def get(self, position: int) -> Batch | None:
        """Return a batch; None where it is not kept."""
        return self._batches.get(position)

    def release(self, position: int) -> None:
        """Count one outlet less that needs a batch."""
        if position in self._owners:
            self._owners[position] -= 1
            if self._owners[position] == 0:
                self.forget(position)

    def forget(self, position: int) -> None:
        """Keep a batch no longer, whoever needs it."""
        if self._owners.pop(position, None) is not None:
            self._bytes -= self._batches.pop(position).size + _BATCH_COSTS
