"""What the buffer keeps of a batch beside the batch itself."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Iterable
from datetime import timedelta

from msgspec import Struct

from polku.batch.batch import Identity
from polku.batch.receipt import Refusal, shifted
from polku.codes import Code


class LogSlot(Struct, frozen=True):
    """Where a batch lies in the log, its number of events, and the bytes that it takes there.

    `enqueued_ns` is when it came to the gateway, in Unix nanoseconds; 0: nobody knows.
    """

    position: int
    events: int
    size: int
    enqueued_ns: int = 0


class OutletState(Struct, frozen=True):
    """How far an outlet is: its cursor, and the batches, events and bytes that it has not passed.

    `oldest_ns` is when the first of those was written, in Unix nanoseconds (0 if unknown). An outlet is `orphaned` when
    the latest pipeline that had the journal has no emitter of its name: nobody delivers what waits for it.
    """

    name: str
    cursor: int
    batches: int
    events: int
    bytes: int
    oldest_ns: int = 0
    orphaned: bool = False


def age_of(outlet: OutletState) -> str:
    """Say for how long the first event of an outlet has waited."""
    if not outlet.events or not outlet.oldest_ns:
        return "-"
    return str(timedelta(seconds=max(time.time_ns() - outlet.oldest_ns, 0) // 1_000_000_000))


def describe_orphan(orphan: OutletState, path: object) -> str:
    """Say what waits for an outlet that no emitter serves, for how long, and what to do."""
    name = shlex.quote(orphan.name)
    return (
        f"there is no such emitter, and {orphan.events} events wait for it in the journal (age {age_of(orphan)}); if "
        f"it has another name now, give it formerly={orphan.name!r}, or stop and run `polku journal rename {path} "
        f"{name} NEW`; if it is no more, `polku journal repair {path} --forget {name}`"
    )


class PendingDelivery:
    """A batch of some `events` whose sender waits for its delivery: which outlets still have it, and what they refused.

    `start` is where its first event stands in the batch that was pushed: refusals are about that one. -1: nobody knows.
    `dropped` are the places there of events that were dropped since an outlet was full, once for each outlet. It
    `is_held` once it is in the log.
    """

    __slots__ = ("done", "dropped", "events", "identity", "is_held", "owners", "refused", "start", "told")

    def __init__(self, owners: Iterable[str], events: int, identity: Identity | None, start: int = 0) -> None:
        self.owners = set(owners)
        self.events = events
        self.identity = identity
        self.start = start
        self.told = 0
        self.is_held = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused: list[Refusal] = []
        self.dropped: list[int] = []

    def refuse(self, refused: Iterable[Refusal], skip: int = 0) -> None:
        """Add refusals of events, whose positions are counted from `skip` on in what lies in the log."""
        if self.start < 0:
            self.refused.extend(refusal._replace(position=-1) for refusal in refused)
        else:
            self.refused.extend(shifted(refused, self.start + skip))

    def news(self) -> list[Refusal]:
        """Return the refusals that came since the last call."""
        news, self.told = self.refused[self.told :], len(self.refused)
        return news

    def lose(self, outlet: str, skip: int = 0) -> None:
        """Refuse what an outlet could not read of it: all events but the first `skip`, which it has dropped before."""
        reason = f"emitter {outlet!r} never got the event, since the journal has lost it; send it again"
        self.refuse([Refusal("", Code.UNDELIVERED, reason, position=at) for at in range(self.events - skip)], skip)

    def rename(self, old: str, new: str) -> None:
        """Wait for an outlet under its new name."""
        if old in self.owners:
            self.owners.remove(old)
            self.owners.add(new)

    def release(self, outlet: str) -> bool:
        """Wait for an outlet no longer; return whether it was the last one."""
        if outlet not in self.owners:
            return False
        self.owners.remove(outlet)
        if not self.owners and not self.done.done():
            self.done.set_result(None)
        return not self.owners


class OutletEntry:
    """An outlet's entry on a batch: all of its events but the first `skip`, which were dropped by rule.

    `since_ns` is since when it waits, in Unix nanoseconds; 0: nobody knows.
    """

    __slots__ = ("since_ns", "skip", "slot")

    def __init__(self, slot: LogSlot, since_ns: int = 0) -> None:
        self.slot = slot
        self.since_ns = since_ns
        self.skip = 0

    @property
    def count(self) -> int:
        """The events that are still claimed."""
        return self.slot.events - self.skip

    @property
    def size(self) -> int:
        """The bytes that are still claimed; a share of the batch's."""
        return self.slot.size * self.count // max(self.slot.events, 1)
