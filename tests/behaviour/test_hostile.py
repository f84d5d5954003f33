"""User code may raise anything: it costs its own event, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from polku import Batch, Code, Deduplicator, Event, Hub, RetryableError, new_event
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.support.recorder import Recorder


def exit_process(event: Event) -> None:
    if event.event_type == "bad":
        sys.exit(2)


async def await_what_was_cancelled(event: Event) -> None:
    if event.event_type == "bad":
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task


@pytest.mark.parametrize("function", [exit_process, await_what_was_cancelled])
@on_ray_when_slow
def test_middleware_that_raises_no_exception(
    start: Start, tmp_path: Path, function: Callable[[Event], Awaitable[None] | None]
) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Deduplicator()).middleware(function).emitter(recorder))
    sender = pipeline.sender()
    for _ in range(3):  # more than a window has room for; a retry behind the Deduplicator is no duplicate
        receipt = sender.send([new_event("bad", id="bad"), new_event("good")], timeout=30)
        assert [(refusal.event_id, refusal.code) for refusal in receipt.refused] == [("bad", Code.MIDDLEWARE_ERROR)]
    assert [event.event_type for event in recorder.wait_for(3)] == ["good"] * 3
    assert pipeline.health().healthy
    assert [letter.event.id for letter in pipeline.dead_letters()] == ["bad"] * 3
    assert pipeline.stop(20).complete


class Moody:
    """Raise on the first calls, differently each time."""

    name = "moody"
    errors = (asyncio.CancelledError, SystemExit, KeyboardInterrupt, RetryableError("later"))

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.calls = 0

    async def emit(self, batch: Batch) -> None:
        self.calls += 1
        if self.calls <= len(self.errors):
            raise self.errors[self.calls - 1]
        await self.recorder.emit(batch)


@on_ray_when_slow
def test_an_emitter_that_raises_no_exception_is_called_again(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().emitter(Moody(recorder)))
    receipts = [pipeline.sender().send(new_event("x", id=f"e{n}"), timeout=30) for n in range(6)]
    assert all(receipt.ok for receipt in receipts)
    assert [event.id for event in recorder.wait_for(6)] == [f"e{n}" for n in range(6)]
    assert pipeline.stop(20).complete


@on_ray_when_slow
def test_an_ingestor_that_raises_no_exception_refuses_its_message(start: Start, tmp_path: Path) -> None:
    def parse(data: bytes) -> list[Event]:
        if data == b"bad":
            sys.exit(2)
        return [Event(event_type=data.decode())]

    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().ingestor(parse, source="s").emitter(recorder))
    sender = pipeline.sender()
    (refusal,) = sender.send_raw(b"bad", source="s", timeout=30).refused
    assert refusal.code == Code.INGESTOR_ERROR
    assert "SystemExit: 2" in refusal.message
    assert sender.send_raw(b"good", source="s", timeout=30).ok
    assert [event.event_type for event in recorder.wait_for(1)] == ["good"]
