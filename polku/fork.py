"""The way out of a stage that several lanes share: each batch goes on in the lane that it came from."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence

from polku.batch import Batch
from polku.link import Link
from polku.receipt import Receipt


class Fork:
    """Choose among one link for each lane, by the batch's origin.

    `lanes` are the names that the origins of each lane's batches begin with. What was made anew of several batches (an
    aggregate) has no origin: its first event's source chooses, so that those of one source keep their order.
    """

    def __init__(self, lanes: Sequence[str], links: Sequence[Link]) -> None:
        self._lanes = {f"{name}/": link for name, link in zip(lanes, links, strict=True)}
        self._links = tuple(links)

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Queue the batch and return the future of its receipt."""
        return self._choose(batch).push_nowait(batch)

    async def wait_room(self) -> None:
        """Return when every lane has room."""
        for link in self._links:
            await link.wait_room()

    async def close(self) -> None:
        """Close the links."""
        for link in self._links:
            await link.close()

    def _choose(self, batch: Batch) -> Link:
        if batch.identity is not None:
            for begin, link in self._lanes.items():
                if batch.identity.origin.startswith(begin):
                    return link
        source = batch.events[0].source if len(batch) else ""
        return self._links[zlib.crc32(source.encode()) % len(self._links)]
