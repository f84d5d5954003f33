"""Pipelines of the inline runtime that take other plans, and destinations that are told when to take something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from polku import Hub, Transform
from polku.batch.batch import Batch
from polku.event.v1.event_pb2 import Event
from polku.gateway.addresses import Doors
from polku.runtime.changing import Changed
from polku.runtime.inline import InlineRuntime
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch


class Out:
    """A destination that takes everything while it is `open`, and keeps the order; `tag` tells emitters apart."""

    def __init__(self, arrived: list[str], tag: str = "", *, is_open: bool = True, fails: str = "") -> None:
        self.arrived = arrived
        self.content_key = (tag, is_open, fails)
        self.tag = tag
        self.fails = fails
        self.opened = asyncio.Event()
        self.starts = self.calls = 0
        self.closed = False
        if is_open:
            self.opened.set()

    async def start(self) -> None:
        self.starts += 1
        if self.fails == "start":
            raise RuntimeError("its address is wrong")

    async def emit(self, batch: Batch) -> None:
        self.calls += 1
        await self.opened.wait()
        self.arrived += [self.tag + event.id for event in EventPayload.FromString(batch.payload).events]

    async def close(self) -> None:
        self.closed = True


class Running:
    """A pipeline on the inline runtime, in the event loop of its test."""

    def __init__(self, hub: Hub) -> None:
        self.runtime = InlineRuntime(hub.plan(), Doors(door=None))

    async def send(self, *ids: str, source: str = "s") -> Ack:
        events = [Event(id=event_id, source=source) for event_id in ids]
        message = IngestBatch(source=source)
        message.events.events.extend(events)
        return await self.runtime._lane.intake.batch(message.SerializeToString())

    async def send_raw(self, source: str, data: bytes) -> Ack:
        message = IngestBatch(source=source)
        message.raw.data = data
        return await self.runtime._lane.intake.batch(message.SerializeToString())

    async def update(self, hub: Hub, seconds: float = 30.0) -> Changed:
        return await self.runtime.update(hub.plan(), seconds=seconds)

    async def delivered(self) -> None:
        await self.runtime._lane.drain_buffer()

    @property
    def held(self) -> int:
        """The events that the first stage holds."""
        return self.runtime._lane.statistics().stages["stage-1"].held

    @property
    def emitters(self) -> Collection[str]:
        """The names of emitters that deliver, also of those that are gone."""
        return self.runtime._lane.statistics().emitters


async def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds."""
    while not condition():  # noqa: ASYNC110 - it is about the state of parts that have no event for it
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running(hub: Hub) -> AsyncIterator[Running]:
    pipeline = Running(hub)
    await pipeline.runtime.start()
    try:
        yield pipeline
    finally:
        await pipeline.runtime.stop(1.0)


def hub(*steps: object, out: object, **options: Any) -> Hub:
    chain = Hub(runtime="inline")
    for step in steps:
        chain.middleware(step, name=type(step).__name__)
    return chain.emitter(out, name="out", **options)


def tagging(tag: str) -> Transform:
    def tag_it(event: Event) -> None:
        event.id += tag

    return Transform(tag_it)


class Flood:
    """Send events one by one, until `end`."""

    def __init__(self, pipeline: Running) -> None:
        self.count = 0
        self._pipeline = pipeline
        self._ends = False
        self._sending = asyncio.ensure_future(self._send())

    async def go_on(self, count: int = 20) -> None:
        """Return when so many more were sent."""
        wanted = self.count + count
        await until(lambda: self.count >= wanted or self._sending.done())

    async def end(self) -> list[int]:
        """Return the numbers that were sent."""
        self._ends = True
        await self._sending
        await self._pipeline.delivered()
        return list(range(self.count))

    async def _send(self) -> None:
        while not self._ends:
            ack = await self._pipeline.send(str(self.count))
            assert list(ack.event_ids) == [str(self.count)]
            self.count += 1
            await asyncio.sleep(0)
