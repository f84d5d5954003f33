"""Fill the calls of an emitter from many batches: groups of events that are complete by size, age, or for want of room.

A batch is answered `Accepted` first, as by a stage that holds events: `push` returns at once with an awaitable of the
receipt, which comes when every group with events of the batch has been delivered. So a small window, or a small share
of the buffer, does not make an end of it: what is upstream goes on pushing, and asks for room (`flush`) where what is
held here fills its share. Then the oldest groups are completed early.

What is held is bounded: over `Collecting.max_held_bytes` a push waits. Held are batches without an answer, since their
sender keeps them for as long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, Header, join_traces
from polku.batch.frames import join_frames, split_frames
from polku.batch.receipt import Accepted, Answer, Receipt, Refusal
from polku.codes import Code
from polku.contracts import Collector, Emitter
from polku.emit.delivery import CollectionStatistics, Delivery, DeliveryStatistics
from polku.text import said, trace
from polku.usercode import as_exception, is_ours
from polku.v1.gateway_pb2 import EventPayload

if TYPE_CHECKING:
    from polku.tracing.tracer import Tracer

MAX_BATCHES = 5_000  # for each of them a call of the sender is open


class CollectingDelivery(Delivery):
    """Collect events by group and call the emitter with one batch for each group that is complete."""

    def __init__(self, name: str, emitter: Emitter, collector: Collector, tracer: Tracer | None = None) -> None:
        super().__init__(name, emitter, tracer)
        self._limits = collector.collecting
        self._group_of = collector.group
        self._groups: dict[str, _Group] = {}  # by key, in the order of their opening
        self._held: dict[int, _Held] = {}  # by rising number
        self._held_events = self._held_bytes = self._early = 0
        self._open = self._under_way = 0  # bytes in groups that are not complete, and in those that are
        self._wanted = False  # room was asked for, while groups were in flight
        self._number = 0
        self._released = 0  # the last batch all of whose groups were completed for want of room
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        self._tasks = TaskSet(f"emitter {name!r}")

    async def push(self, batch: Batch) -> Answer:
        """Accept a batch, once there is room for it."""
        async with self._turn:
            while self._is_full(batch.size):
                self._make_room()
                self._settled.clear()
                await self._settled.wait()
            return Accepted(self._take(batch).done)

    async def flush(self, everything: bool) -> None:
        """Complete every group, or those that keep the older half of the batches from their answers."""
        if everything:
            for group in list(self._groups.values()):
                self._complete(group, early=True)
        else:
            self._make_room()

    async def close(self) -> None:
        """Give up what is held, which stays unconfirmed, and close the emitter."""
        for group in self._groups.values():
            group.timer.cancel()
        self._groups.clear()
        await self._tasks.close()
        await super().close()

    def statistics(self) -> DeliveryStatistics:
        """Return a snapshot of the counters."""
        held = CollectionStatistics(
            len(self._groups), self._held_events, self._held_bytes, self._early, self._limits.max_age
        )
        return replace(super().statistics(), collection=held)

    def _is_full(self, size: int) -> bool:
        if len(self._held) >= MAX_BATCHES:
            return True
        return bool(self._held) and self._held_bytes + size > self._limits.max_held_bytes

    def _take(self, batch: Batch) -> _Held:
        self._number += 1
        held = self._held[self._number] = _Held(self._number, len(batch), batch.size, batch.trace)
        self._held_events += held.events
        self._held_bytes += held.size
        payload = batch.payload  # decoded apart from the batch, which would keep the events for as long as it is held
        frames = split_frames(payload)
        for position, (event, frame) in enumerate(zip(EventPayload.FromString(payload).events, frames, strict=True)):
            try:
                key = self._group_of(event)
            except BaseException as error:
                refusal = Refusal(event.id, Code.UNDELIVERED, said(error), position=position, detail=trace(error))
                held.refused.append(refusal)
            else:
                self._put(key, held, position, frame)
        self._failed += len(held.refused)
        self._settle(held, len(held.refused))
        return held

    def _put(self, key: str, held: _Held, position: int, frame: bytes) -> None:
        size = len(frame)
        group = self._groups.get(key)
        if group is not None and group.size + size > self._limits.max_bytes:
            self._complete(group)
            group = None
        if group is None:
            if len(self._groups) >= self._limits.max_groups:
                self._complete(next(iter(self._groups.values())), early=True)
            timer = asyncio.get_running_loop().call_later(self._limits.max_age, self._complete_aged, key)
            group = self._groups[key] = _Group(key, held.number, timer)
        group.frames.append(frame)
        group.size += size
        self._open += size
        if group.last is not held:
            group.last = held
            group.runs.append(_Run(held))
        group.runs[-1].positions.append(position)
        if len(group.frames) >= self._limits.max_events:
            self._complete(group)

    def _complete_aged(self, key: str) -> None:
        self._complete(self._groups[key])

    def _make_room(self) -> None:
        """Complete every group with events of the older half of the batches, unless room is about to be made.

        Groups that are in flight may make it. If no batch is answered with them, there is more to complete.
        """
        if not self._held or next(iter(self._held)) <= self._released:
            return
        self._wanted = self._under_way >= self._open
        if self._wanted:
            return
        self._released = (next(iter(self._held)) + self._number) // 2
        for group in list(self._groups.values()):
            if group.opened_by > self._released:
                break
            self._complete(group, early=True)

    def _complete(self, group: _Group, *, early: bool = False) -> None:
        self._early += early
        group.timer.cancel()
        del self._groups[group.key]
        self._open -= group.size
        self._under_way += group.size
        self._tasks.start("group", self._deliver(group))

    async def _deliver(self, group: _Group) -> None:
        trace = join_traces([run.held.trace for run in group.runs if run.held.trace])
        batch = Batch.from_wire(Header(len(group.frames), None, None, 0, trace), join_frames(group.frames))
        group.frames.clear()
        try:
            receipt = await self.deliver(batch)
        except BaseException as error:
            self._give_up(group, as_exception(error))
            if is_ours(error):
                raise
            return
        refused = {refusal.position: refusal for refusal in receipt.refused}
        self._under_way -= group.size
        waiting, start = len(self._held), 0
        for run in group.runs:
            held, count = run.held, len(run.positions)
            if refused:
                places = enumerate(run.positions, start)
                held.refused += [refused[at]._replace(position=own) for at, own in places if at in refused]
            start += count
            self._settle(held, count)
        if len(self._held) < waiting:
            self._wanted = False  # who needs more room than that asks again
        elif self._wanted:
            self._make_room()

    def _give_up(self, group: _Group, error: Exception) -> None:
        """Answer the batches of a group that has no outcome with the reason; their sender keeps them."""
        self._under_way -= group.size
        for run in group.runs:
            held = self._held.pop(run.held.number, None)
            if held is None:  # another group of it has failed before
                continue
            self._held_events -= held.events
            self._held_bytes -= held.size
            if not held.done.done():
                held.done.set_exception(error)
        self._settled.set()

    def _settle(self, held: _Held, count: int) -> None:
        """Count events of a batch that have an outcome; with the last one, answer the batch."""
        held.remaining -= count
        if held.remaining or held.number not in self._held:
            return
        del self._held[held.number]
        self._held_events -= held.events
        self._held_bytes -= held.size
        self._settled.set()
        if not held.done.done():  # its sender may have gone
            held.done.set_result(Receipt(tuple(held.refused)))


class _Held:
    """A batch without an answer."""

    __slots__ = ("done", "events", "number", "refused", "remaining", "size", "trace")

    def __init__(self, number: int, events: int, size: int, trace: str) -> None:
        self.trace = trace
        self.number = number
        self.events = self.remaining = events
        self.size = size
        self.refused: list[Refusal] = []
        self.done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()


class _Run:
    """Events in a row that are of one batch: their positions there."""

    __slots__ = ("held", "positions")

    def __init__(self, held: _Held) -> None:
        self.held = held
        self.positions: list[int] = []


class _Group:
    """The serialised events of one group, and whose they are."""

    __slots__ = ("frames", "key", "last", "opened_by", "runs", "size", "timer")

    def __init__(self, key: str, opened_by: int, timer: asyncio.TimerHandle) -> None:
        self.key = key
        self.opened_by = opened_by
        self.timer = timer
        self.frames: list[bytes] = []
        self.runs: list[_Run] = []
        self.last: _Held | None = None
        self.size = 0
