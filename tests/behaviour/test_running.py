"""How a pipeline starts, stops and tells of its health, whatever it runs on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from polku import Aggregator, Event, Hub, new_event
from tests.behaviour.conftest import Start, numbered, on_ray_when_slow
from tests.support.recorder import Recorder


@on_ray_when_slow
def test_stopping_lets_go_of_what_an_aggregator_holds(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Aggregator(1_000, within=600)).emitter(recorder))
    sender = pipeline.sender()
    with pytest.raises(TimeoutError):
        sender.send(numbered(7), timeout=0.3)
    report = pipeline.stop(30)
    assert report.complete
    assert [event.metadata["polku.aggregate.count"] for event in recorder.events()] == ["7"]


def test_stopping_delivers_what_was_accepted_and_reports_it(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().emitter(recorder))
    for _ in range(5):
        pipeline.sender().send([new_event("x", source="test") for _ in range(1_000)])
    report = pipeline.stop(20)
    assert report.complete
    assert report.emitters["recorder"].delivered == 5_000
    assert len(recorder.events()) == 5_000
    assert pipeline.stop(20) == report


@on_ray_when_slow
def test_stopping_gives_up_at_its_deadline_and_says_what_is_left(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    recorder.hold()
    pipeline = start(Hub().emitter(recorder))
    pipeline.sender().send(numbered(10))
    before = pipeline.report_nowait().result(30)
    report = pipeline.stop(0.5)
    recorder.release()
    assert before == report._replace(seconds=0.0)
    assert not report.complete
    assert report.emitters["recorder"].left == 10


@on_ray_when_slow
def test_two_pipelines_live_side_by_side(start: Start, tmp_path: Path) -> None:
    one, two = Recorder(tmp_path / "one"), Recorder(tmp_path / "two")
    first, second = start(Hub(name="one").emitter(one)), start(Hub(name="two").emitter(two))
    first.sender().send(new_event("first", source="test"))
    second.sender().send(new_event("second", source="test"))
    assert [event.event_type for event in one.wait_for(1)] == ["first"]
    assert [event.event_type for event in two.wait_for(1)] == ["second"]


def test_a_pipeline_can_be_used_from_an_event_loop(runtime: str, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")

    async def use() -> int:
        async with Hub().emitter(recorder).start(runtime=runtime) as pipeline:
            sender = pipeline.sender()
            receipts = await asyncio.gather(*(sender.send_async(event, source="test") for event in numbered(50)))
            return sum(len(receipt.event_ids) for receipt in receipts)

    assert asyncio.run(use()) == 50
    assert len(recorder.events()) == 50


@on_ray_when_slow
def test_build_gives_senders_that_work_once_the_runner_runs(runtime: str, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    raw_sender, event_sender, runner = Hub().emitter(recorder).build(runtime=runtime)
    with runner.start():
        assert raw_sender.send(b'{"event_type": "raw"}', source="json").ok
        assert event_sender.send(new_event("event", source="test")).ok
    assert {event.event_type for event in recorder.events()} == {"raw", "event"}


@on_ray_when_slow
def test_user_code_that_blocks_turns_health_bad_by_name_and_loses_nothing(
    start: Start, tmp_path: Path, arrangement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polku.runtime.watch.PATIENCE", 0.3)
    recorder, gate = Recorder(tmp_path / "out"), tmp_path / "gate"
    gate.touch()

    def block(event: Event) -> None:
        while gate.exists():
            time.sleep(0.01)

    pipeline = start(Hub().middleware(block).emitter(recorder))
    with pytest.raises(TimeoutError):
        pipeline.sender().send(new_event("x", source="test", id="stuck"), timeout=0.1)
    deadline = time.monotonic() + 40
    while (health := pipeline.health()).healthy:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    healthy, message = health.components["lane" if arrangement == "chained" else "stage-1"]
    assert not healthy
    assert arrangement != "inline" or "block has been busy with one batch" in message
    gate.unlink()
    assert [event.id for event in recorder.wait_for(1)] == ["stuck"]
    while not pipeline.health().healthy:
        assert time.monotonic() < deadline
        time.sleep(0.05)
