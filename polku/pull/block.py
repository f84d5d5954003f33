"""Records of a source by the block: serialised together, which is cheaper than one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from polku.contracts import Pulled, PulledStream


class Extent(NamedTuple):
    """Bound the texts of events, in bytes: no id is longer, and so on; `entries` of metadata are in none of them."""

    id: int
    event_type: int
    entries: int
    metadata_key: int
    metadata_value: int


class PulledBlock(NamedTuple):
    """Records of one stream that are events already, serialised together as an `EventPayload`.

    Nothing is filled in: they have their times and sources, and the cluster of the stream where that has one. `sizes`
    has the bytes of each event. Where the source has made all of the bytes, `ids` has the ids, each another, and
    `extent` bounds the texts, so that nobody has to look at the events; else they are checked. `records` returns the
    same records one by one, where something about them keeps them from being taken together.
    """

    payload: bytes
    sizes: Sequence[int]
    records: Callable[[], Sequence[Pulled]]
    ids: list[str] | None = None
    extent: Extent | None = None


@runtime_checkable
class BlockStream(PulledStream, Protocol):
    """A way in that takes records by the block, too: that of a pipeline."""

    async def push_block(self, block: PulledBlock) -> Awaitable[None]:
        """Hand records in that are serialised together: what `push` does with `block.records()`, at less cost."""
        ...
