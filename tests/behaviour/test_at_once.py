"""What a batch that goes through in one turn of the event loop must not change for user code."""

from __future__ import annotations

import asyncio
from typing import Any

from polku import Event, Hub, new_event
from polku.middleware import Transform


class Recorder:
    name = "recorder"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, batch: Any) -> None:
        self.events += list(batch)


def test_more_stages_than_the_stack_has_room_for() -> None:
    recorder = Recorder()
    hub = Hub(runtime="inline").emitter(recorder)

    def count(event: Event) -> None:
        event.metadata["count"] = str(int(event.metadata["count"]) + 1)

    for number in range(150):
        hub.middleware(Transform(count), name=f"count-{number}", isolate=True)
    with hub.start() as pipeline:
        assert pipeline.sender().send(new_event("test.deep", metadata={"count": "0"})).ok
    assert [event.metadata["count"] for event in recorder.events] == ["150"]


class Timed:
    """Ask for what only a task has, before and after it has waited."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    async def process(self, events: list[Event]) -> list[Event]:
        self.tasks.append(asyncio.current_task())
        async with asyncio.timeout(30):
            await asyncio.sleep(0.001)
        self.tasks.append(asyncio.current_task())
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(5)
        except TimeoutError:
            return events
        raise AssertionError("the timeout was somebody else's")


def test_async_middleware_has_a_task_of_its_own() -> None:
    recorder, timed = Recorder(), Timed()
    with Hub(runtime="inline").middleware(timed).emitter(recorder).start() as pipeline:
        assert pipeline.sender().send(new_event("test.timed")).ok
    assert len(recorder.events) == 1
    before, after = timed.tasks
    assert before is after is not None
