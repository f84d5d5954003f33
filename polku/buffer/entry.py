"""One batch in the buffer, and one outlet's claim on it."""

from __future__ import annotations

import asyncio

from polku.batch import Batch
from polku.receipt import Refusal


class Entry:
    """A batch at a position of the store, needed by some outlets; `done` when the last of them has let go of it."""

    __slots__ = ("count", "done", "owners", "position", "refused", "size")

    def __init__(self, position: int, batch: Batch, owners: int, done: asyncio.Future[None] | None) -> None:
        self.position = position
        self.count = len(batch)
        self.size = batch.size
        self.owners = owners
        self.done = done
        self.refused: list[Refusal] = []


class Claim:
    """An outlet's claim on an entry: all of its events but the first `skip`, which were dropped by rule."""

    __slots__ = ("entry", "skip")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.skip = 0

    @property
    def count(self) -> int:
        """The events that are still claimed."""
        return self.entry.count - self.skip

    @property
    def size(self) -> int:
        """The bytes that are still claimed; a share of the entry's."""
        return self.entry.size * self.count // max(self.entry.count, 1)
