"""What becomes of one push on its way into the buffer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct, field

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Fate, Refusal
from polku.buffer.positions import LogSlot, PendingDelivery

if TYPE_CHECKING:
    from polku.buffer.outlet import Outlet


class Draft(NamedTuple):
    """A piece in the log's draft: where it lies, which outlets it goes to, its place in the batch, and itself.

    `pending` is its delivery where the sender waits for that. (By its position alone it could be that of another piece:
    what is put before a journal can be opened may have the position of something that is in it.)
    """

    slot: LogSlot
    takers: Sequence[Outlet]
    start: int
    piece: Batch
    pending: PendingDelivery | None


class PushState(Struct):
    """What of a push lies in the log's draft, is being written, waits for room or for its delivery, and is refused.

    `pieces` are the positions in the log and the places in the batch; `taken` has for each outlet how many of the
    batch's first events were dealt with. `resumed`: a past life of the buffer did so with a part of the batch. `fates`
    are kept where the batch `wants_fates`. `awaits`: its sender waits for the delivery.
    """

    identity: Identity | None
    refused: list[Refusal] = field(default_factory=list)
    waits: list[PendingDelivery] = field(default_factory=list)
    letters: list[Awaitable[None]] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    held: list[tuple[asyncio.Future[None], Sequence[Draft]]] = field(default_factory=list)
    late: list[asyncio.Task[None]] = field(default_factory=list)
    unfinished: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)
    resumed: bool = False
    wants_fates: bool = False
    fates: list[Fate] = field(default_factory=list)
    awaits: bool = False

    def count_dropped(self, events: Iterable[int]) -> None:
        """Note that events at these places of the batch were dropped since an outlet was full."""
        if self.wants_fates:
            self.fates += [(place, "overflowed", 1) for place in events]

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waited for."""
        return not (self.held or self.waits or self.letters or self.late)
