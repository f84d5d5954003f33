"""A pipeline in which what happens seldom is made to happen, one thing after the other."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from polku import Aggregator, Batch, BufferStrategy, Failure, Hub, Pipeline, Transform, new_event
from polku.contracts import SourceState
from polku.event.v1.event_pb2 import Event
from polku.link.link import Push
from polku.v1.gateway_pb2 import EventPayload
from tests.monitoring.eventful import Feed

TOKEN = "sesame"


class Signs:
    """Files that say, to every process, what may go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def give(self, name: str) -> None:
        (self.folder / name).touch()

    def is_given(self, name: str) -> bool:
        return (self.folder / name).exists()

    async def wait(self, name: str) -> None:
        while not self.is_given(name):  # noqa: ASYNC110 - another process gives it
            await asyncio.sleep(0.01)


class Source(Feed):
    """A source that is away once it is told."""

    def __init__(self, signs: Signs) -> None:
        super().__init__()
        self._signs = signs

    def state(self) -> SourceState:
        return super().state()._replace(alarm="away" if self._signs.is_given("source") else "")


class Work:
    """Middleware that waits for its sign."""

    def __init__(self, signs: Signs) -> None:
        self._signs = signs

    async def __call__(self, event: Event) -> Event:
        await self._signs.wait("stage")
        return event


class Partner:
    """A destination that waits for its sign, and refuses everything."""

    name = "partner"

    def __init__(self, signs: Signs) -> None:
        self._signs = signs

    async def emit(self, batch: Batch) -> list[Failure]:
        await self._signs.wait("partner")
        return [Failure(event_id, "no", retryable=False) for event_id in batch.ids]


def seldom(folder: Path) -> Hub:
    """Return the hub; it keeps one dead letter, and its buffer is full with one event."""
    signs = Signs(folder)
    return (
        Hub()
        .source(Source(signs))
        .middleware(Transform(Work(signs)))
        .middleware(Aggregator(2, within=60))
        .buffer_strategy(BufferStrategy.durable(str(folder / "journal.db"), capacity=1))
        .dead_letters(str(folder / "dead.db"), max_events=1)
        .emitter(Partner(signs))
    )


def happenings(pipeline: Pipeline, folder: Path) -> Iterator[set[str]]:
    """Let one thing after the other happen, and yield which metrics it moves."""
    signs, sender = Signs(folder), pipeline.sender()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(sender.send, new_event("order", source="shop"))]
        yield {"polku_stage_busy_seconds", "polku_open_messages"}
        signs.give("stage")
        yield {"polku_stage_held_events"}
        answers.append(pool.submit(sender.send, new_event("order", source="shop")))
        yield {"polku_outlet_in_flight_events", "polku_ready"}
        signs.give("partner")
        for _ in range(2):
            answers.append(pool.submit(sender.send, new_event("order", source="shop")))
        yield {"polku_dead_letters_forgotten_total"}
        signs.give("source")
        yield {"polku_source_up"}
        for _ in range(6):
            _guess(str(pipeline.http_address))
        yield {"polku_authentication_failures_total", "polku_authentication_slowed_total"}
        push_twice(pipeline)
        yield {"polku_buffer_duplicate_batches_total"}
        for answer in answers:
            assert not answer.result(30).refused


def _guess(address: str) -> None:
    headers = {"Authorization": "Bearer open", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}/v1/events", b"{}", headers)
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=30)


def push_twice(pipeline: Pipeline) -> None:
    """Push a batch to the buffer again that it has, as a link does in a new life of its sender."""
    from polku.aio import loop_thread
    from polku.batch.batch import Identity

    runtime: Any = pipeline._runtime
    payload = EventPayload(events=[new_event("order", source="shop")]).SerializeToString()
    batches = []
    for _ in range(2):
        batches.append(Batch(payload=payload, identity=Identity("elsewhere", 1, 1)))
    if pipeline.statistics().runtime == "inline":
        for batch in batches:
            loop_thread.submit(_push_here(runtime, batch)).result(30)
        return
    import ray

    from polku.actors.wire import pack_push

    (lane,) = runtime.parts.lanes
    for epoch, batch in enumerate(batches, 1):
        ray.get(lane.buffer.push.remote(*pack_push(Push("elsewhere", epoch, 1, 1, 0), batch)), timeout=20)


async def _push_here(runtime: Any, batch: Batch) -> None:
    await runtime._lane._buffer.push(batch)
