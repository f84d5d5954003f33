"""Pipelines of actors without Ray, in one event loop, and senders that never stop while they change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import ray.exceptions

from polku import Event, Hub, Transform
from polku.actors import chained_change, changing, lanes
from polku.actors.actor_factory import ActorFactory
from polku.actors.changes import Changes
from polku.actors.handles import LaneHandles
from polku.actors.nodes import LanePlace, Node
from polku.actors.startup import start_all
from polku.batch.batch import Batch
from polku.runtime.changing import Changed
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch
from tests.actors import in_process

ARRIVED: dict[str, list[Event]] = {}
CLOSED: set[str] = set()
HELD: set[str] = set()


@dataclass
class Out:
    """A destination that keeps what it gets under its `place`, in order, and takes nothing while that is HELD."""

    place: str
    tag: str = ""
    fails: bool = False

    async def start(self) -> None:
        if self.fails:
            raise OSError("its address is wrong")

    async def emit(self, batch: Batch) -> None:
        while self.place in HELD:  # noqa: ASYNC110 - a test holds it up
            await asyncio.sleep(0.001)
        events = EventPayload.FromString(batch.payload).events
        for event in events:
            event.metadata["by"] = self.tag
        ARRIVED.setdefault(self.place, []).extend(events)

    async def close(self) -> None:
        CLOSED.add(self.tag)


class Running:
    """A pipeline of actors in the event loop of its test."""

    def __init__(self, hub: Hub) -> None:
        plan = hub.plan("ray")
        self.factory = ActorFactory(plan)
        self.changes = Changes(plan, self._note_parts)
        self.changes.begin(self.factory, self._open_lane)
        self.notes = 0
        node = Node("127.0.0.1", "host")
        self._places = [LanePlace(node, number) for number in range(1, plan.lanes + 1)]

    async def _note_parts(self) -> None:
        self.notes += 1

    async def _open_lane(self, lane: LaneHandles, place: LanePlace) -> None:
        await start_all([lane.ingest])

    async def start(self) -> None:
        parts = self.factory.create(self._places)
        await start_all([*parts.behind(), *parts.shared.values()])
        await start_all(lane.ingest for lane in parts.lanes)

    async def stop(self) -> None:
        await self.changes.stop()
        await self.changes.close()
        for actor in in_process.living():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.ensure_future(_closed(actor)), 10.0)
            actor.kill(restart=False)
        await self.changes.forget()

    async def update(self, hub: Hub, seconds: float = 5.0) -> Changed:
        return await self.changes.update(hub.plan("ray"), seconds)

    @property
    def lane(self) -> LaneHandles:
        """The first lane."""
        return self.factory.parts().lanes[0]

    async def send(self, *ids: str, source: str = "s", lane: int = 0) -> Ack:
        """Send events, again where the ingest dies."""
        message = IngestBatch(source=source)
        message.events.events.extend(Event(id=event_id, source=source) for event_id in ids)
        while True:
            try:
                ingest = self.factory.parts().lanes[lane].ingest
                return Ack.FromString(await ingest.submit.remote(message.SerializeToString()))
            except ray.exceptions.RayActorError:
                await asyncio.sleep(0.001)

    async def delivered(self) -> None:
        for lane in self.factory.parts().lanes:
            await lane.buffer.drain_buffer.remote()


async def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds."""
    while not condition():  # noqa: ASYNC110 - it is about the state of parts that have no event for it
        await asyncio.sleep(0.001)


async def _closed(actor: in_process.Actor) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        await actor.close.remote()


@asynccontextmanager
async def running(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    store = in_process.use(monkeypatch)
    monkeypatch.setattr(changing, "_WATCH_SECONDS", 0.001)
    monkeypatch.setattr(chained_change, "_WATCH_SECONDS", 0.001)
    monkeypatch.setattr(lanes, "_WATCH_SECONDS", 0.001)
    monkeypatch.setattr(lanes, "_EMPTY_SECONDS", 0.001)
    for known in (ARRIVED, CLOSED, HELD):
        known.clear()
    pipeline = Running(hub)
    await pipeline.start()
    try:
        yield pipeline
    finally:
        await pipeline.stop()
    assert not store.values


class Flood:
    """Send events one after the other, from some senders in each lane, until `end`."""

    def __init__(self, pipeline: Running, senders: int = 3, lanes: int = 1) -> None:
        self.counts = [0] * senders * lanes
        self._pipeline = pipeline
        self._lanes = lanes
        self._ends = False
        self._sending = [asyncio.ensure_future(self._send(number)) for number in range(senders * lanes)]

    async def _send(self, number: int) -> None:
        while not self._ends:
            ids = [f"{number}-{n:06d}" for n in range(self.counts[number], self.counts[number] + 2)]
            ack = await self._pipeline.send(*ids, source=f"s{number}", lane=number % self._lanes)
            assert list(ack.event_ids) == ids, ack
            self.counts[number] += 2

    async def go_on(self, events: int = 30) -> None:
        """Return when each sender has sent that many more events."""
        wanted = [count + events for count in self.counts]
        async with asyncio.timeout(30):
            while any(count < want for count, want in zip(self.counts, wanted, strict=True)):
                for sending in self._sending:
                    if sending.done():
                        sending.result()
                await asyncio.sleep(0.001)

    async def end(self) -> set[str]:
        """Return the ids that were sent, once they are delivered."""
        self._ends = True
        await asyncio.wait_for(asyncio.gather(*self._sending), 30.0)
        await asyncio.wait_for(self._pipeline.delivered(), 30.0)
        return {f"{number}-{n:06d}" for number, count in enumerate(self.counts) for n in range(count)}


def check(sent: Collection[str], got: Sequence[Event], *, may_repeat: bool = False) -> None:
    """Check that what was sent arrived, once, and in the order of each sender."""
    ids = [event.id for event in got]
    assert set(ids) == set(sent), f"{len(set(sent) - set(ids))} are lost"
    if not may_repeat:
        assert len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} are doubled"
    firsts = list(dict.fromkeys(ids))
    for sender in {event_id.partition("-")[0] for event_id in sent}:
        own = [event_id for event_id in firsts if event_id.startswith(f"{sender}-")]
        assert own == sorted(own)


def tags(got: Sequence[Event], key: str = "tag") -> list[str]:
    """Return the different tags of events, in their order."""
    return list(dict.fromkeys(event.metadata[key] for event in got))


def tagging(tag: str) -> Transform:
    def tag_it(event: Event) -> None:
        event.metadata["tag"] += tag

    return Transform(tag_it)


def chain(*steps: object, out: object = None, lanes: int = 1, **options: Any) -> Hub:
    hub = Hub(runtime="ray")
    for step in steps:
        hub.middleware(step, name=type(step).__name__)
    return hub.emitter(out or Out("out"), name="out", **options).lanes(lanes)
