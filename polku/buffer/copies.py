"""Where the copies of one event are: the log is searched for its id, with bounds on the time that it may take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from polku.batch.batch import Batch
from polku.buffer.positions import LogSlot, OutletEntry

if TYPE_CHECKING:
    from polku.buffer.log import Log

_SECONDS = 5.0  # for which a search may take
_CHUNK = 16  # batches that are read at once; others have their turn in between
_RECENT_BYTES = 512 * 1024


class Copy(NamedTuple):
    """One copy of an event, at an emitter: it is `waiting`, `in flight` or `delivered`.

    `time_ns` is Unix time: when it came to the gateway, or was confirmed; 0 where nobody knows. `ahead` events of the
    same emitter are before one that waits. `left` is empty for an emitter of the pipeline: it is `leaving` where the
    emitter has left with a change and still delivers what it has, `gone` where nobody delivers what waits for it.
    """

    part: str
    state: str
    time_ns: int = 0
    ahead: int = 0
    left: str = ""


class Found(NamedTuple):
    """The copies that were found, among that many events; `complete` where all that are held were looked at.

    `drops` are the rules of the emitters that have dropped events, and how many: this event may be one of them.
    """

    copies: tuple[Copy, ...] = ()
    searched: int = 0
    complete: bool = True
    drops: Mapping[str, tuple[str, int]] = {}


class Held(NamedTuple):
    """What an outlet has to deliver, in order: what is in flight, what waits at hand, and whether there is more.

    More is found in the log, after the position `loaded`.
    """

    in_flight: Sequence[OutletEntry]
    waiting: Sequence[OutletEntry]
    loaded: int
    behind: bool


class RecentDeliveries:
    """The latest batches that an emitter has confirmed, so that somebody can ask for one of their events."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, Batch, frozenset[int]]] = deque()
        self._bytes = 0

    def note(self, batch: Batch, others: Iterable[int] = ()) -> None:
        """Keep a batch, of which the events at some positions were not confirmed, and forget old ones."""
        self._bytes += batch.size_hint
        self._batches.append((time.time_ns(), batch, frozenset(others)))
        while self._bytes > _RECENT_BYTES:
            self._bytes -= self._batches.popleft()[1].size_hint

    def times(self, event_id: str) -> list[int]:
        """Return when an event was confirmed, in Unix nanoseconds."""
        return [
            time_ns
            for time_ns, batch, others in self._batches.copy()
            if any(place not in others for place in places(batch, event_id))
        ]

    def __len__(self) -> int:
        return sum(len(batch) for _, batch, _ in self._batches)


def places(batch: Batch, event_id: str) -> list[int]:
    """Return where an event of this id stands in a batch; of bytes only those are decoded that may have it."""
    if batch.is_sealed and event_id.encode("utf-8", "surrogateescape") not in batch.payload:
        return []
    events = Batch.from_wire(batch.header, batch.payload) if batch.is_sealed else batch  # what is held stays bytes
    return [place for place, event in enumerate(events.events) if event.id == event_id]


class CopySearch:
    """Look for an event in what the outlets of a buffer have to deliver."""

    def __init__(self, log: Log, event_id: str) -> None:
        self._log = log
        self._id = event_id
        self._until = time.monotonic() + _SECONDS
        self._places: dict[int, list[int]] = {}  # by position in the log: several outlets may need a batch
        self.copies: list[Copy] = []
        self.searched = 0
        self.is_complete = True

    async def look(self, outlets: Mapping[str, Held]) -> Found:
        """Return the copies that are in flight, or wait."""
        for name, held in outlets.items():
            await self._look_at(name, "in flight", held.in_flight, 0)
            ahead = await self._look_at(name, "waiting", held.waiting, 0)
            after, more = held.loaded, held.behind
            while more and self.is_complete:
                slots = await self._log.next_slots(name, after, _CHUNK)
                ahead = await self._look_at(name, "waiting", [OutletEntry(slot) for slot in slots], ahead)
                more, after = bool(slots), slots[-1].position if slots else after
        return Found(tuple(self.copies), self.searched, self.is_complete)

    async def _look_at(self, outlet: str, state: str, entries: Sequence[OutletEntry], ahead: int) -> int:
        """Look at entries of an outlet that has so many events before them; return how many are before what follows."""
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            if time.monotonic() > self._until:
                self.is_complete = False
                return ahead
            await self._read([entry.slot for entry in chunk if entry.slot.position not in self._places])
            for entry in chunk:
                for place in self._places.get(entry.slot.position, ()):
                    if place >= entry.skip:
                        before = ahead + place - entry.skip if state == "waiting" else 0
                        self.copies.append(Copy(f"emitter:{outlet}", state, entry.slot.enqueued_ns, before))
                ahead += entry.count
            await asyncio.sleep(0)
        return ahead

    async def _read(self, slots: Sequence[LogSlot]) -> None:
        batches = await self._log.peek([slot.position for slot in slots]) if slots else []
        for slot, batch in zip(slots, batches, strict=True):
            self._places[slot.position] = [] if batch is None else places(batch, self._id)
            self.searched += slot.events
