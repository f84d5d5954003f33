"""How a pipeline buffers for slow destinations, and what its senders hear, whatever it runs on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from polku import Aggregator, Batch, BufferStrategy, Code, Deduplicator, Failure, Hub, new_event
from tests.behaviour.conftest import Start, numbered, on_ray_when_slow
from tests.support.recorder import Recorder


def test_a_slow_emitter_does_not_hold_up_another(start: Start, tmp_path: Path) -> None:
    slow, quick = Recorder(tmp_path / "slow", "slow"), Recorder(tmp_path / "quick", "quick")
    slow.hold()
    pipeline = start(Hub().buffer_strategy(BufferStrategy.ring(2_000)).emitter(slow).emitter(quick))
    sender = pipeline.sender()
    for start_at in range(0, 2_000, 500):
        assert sender.send(numbered(2_000)[start_at : start_at + 500]).ok
    assert len(quick.wait_for(2_000)) == 2_000
    assert slow.events() == []
    with pytest.raises(TimeoutError):  # its share is full now, and the rule is to block
        sender.send(new_event("one.more", source="test", id="one-more"), timeout=0.3)
    slow.release()
    assert [event.id for event in slow.wait_for(2_001)] == [event.id for event in quick.wait_for(2_001)]


@on_ray_when_slow
def test_drop_oldest_keeps_the_newest_for_the_slow_emitter_only(start: Start, tmp_path: Path) -> None:
    slow, quick = Recorder(tmp_path / "slow", "slow"), Recorder(tmp_path / "quick", "quick")
    slow.hold()
    hub = Hub().buffer_strategy(BufferStrategy.ring(100)).emitter(slow, overflow="drop_oldest").emitter(quick)
    pipeline = start(hub)
    events = numbered(1_000)
    for start_at in range(0, 1_000, 50):
        assert pipeline.sender().send(events[start_at : start_at + 50]).ok
    quick.wait_for(1_000)
    slow.release()
    report = pipeline.stop(30).emitters
    assert report["quick"].delivered == 1_000
    assert report["slow"].delivered + report["slow"].dropped == 1_000
    assert report["slow"].dropped >= 850
    assert [event.id for event in slow.events()][-1] == events[-1].id


def test_drop_newest_tells_the_sender(start: Start, tmp_path: Path) -> None:
    slow = Recorder(tmp_path / "slow", "slow")
    slow.hold()
    pipeline = start(Hub().buffer_strategy(BufferStrategy.ring(100, overflow="drop_newest")).emitter(slow))
    receipt = pipeline.sender().send(numbered(150))
    assert len(receipt.event_ids) == 100
    assert {refusal.code for refusal in receipt.refused} == {Code.BUFFER_FULL}
    assert len(receipt.refused) == 50
    slow.release()
    assert [event.id for event in slow.wait_for(100)] == list(receipt.event_ids)


@on_ray_when_slow
def test_tiered_buffer_keeps_order_beyond_its_first_tier(start: Start, tmp_path: Path) -> None:
    slow = Recorder(tmp_path / "slow", "slow")
    slow.hold()
    pipeline = start(Hub().buffer_strategy(BufferStrategy.tiered(100, 5_000)).emitter(slow))
    events = numbered(3_000)
    for start_at in range(0, 3_000, 100):
        assert pipeline.sender().send(events[start_at : start_at + 100]).ok
    slow.release()
    assert [event.id for event in slow.wait_for(3_000)] == [event.id for event in events]


def test_aggregated_events_are_answered_when_their_aggregate_is_taken(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Aggregator(10, within=0.3)).emitter(recorder))
    started = time.monotonic()
    receipt = pipeline.sender().send(numbered(25))
    assert receipt.ok
    assert len(receipt.event_ids) == 25
    assert time.monotonic() - started >= 0.25  # the last five waited for their time
    counts = [event.metadata["polku.aggregate.count"] for event in recorder.wait_for(3)]
    assert counts == ["10", "10", "5"]


@on_ray_when_slow
def test_duplicates_are_dropped_and_acknowledged(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Deduplicator()).emitter(recorder))
    sender = pipeline.sender()
    assert sender.send(numbered(3)).ok
    assert sender.send(numbered(4)).ok
    assert len(recorder.wait_for(4)) == 4
    assert pipeline.stop(30).emitters["recorder"].delivered == 4


@on_ray_when_slow
def test_at_the_delivered_level_the_sender_hears_what_the_destination_refused(start: Start, tmp_path: Path) -> None:
    def refuse_second(batch: Batch) -> list[Failure]:
        return [Failure(event.id, "not this one", retryable=False) for event in batch if event.id.endswith("2")]

    pipeline = start(Hub().ack("delivered").emitter(refuse_second))
    receipt = pipeline.sender().send(numbered(4))
    assert len(receipt.event_ids) == 3
    (refusal,) = receipt.refused
    assert (refusal.event_id, refusal.code) == ("user.login-000002", Code.UNDELIVERED)
    assert "not this one" in refusal.message
