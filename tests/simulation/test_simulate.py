"""Users simulate pipelines of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from polku import Aggregator, BufferStrategy, Deduplicator, Event, Filter, Hub, StdoutEmitter, Transform
from polku.testing import Simulation, simulate


def test_ten_minutes_of_a_pipeline_take_a_moment_and_lose_nothing() -> None:
    hub = Hub().middleware(Filter(lambda event: event.payload != b"drop")).emitter(StdoutEmitter(), name="out")
    life = simulate(hub, seconds=600, seed=3)
    life.check()
    assert life.virtual_seconds >= 400
    assert life.events == life.accepted == life.delivered["out"] == 2400


def test_the_same_seed_is_the_same_life_and_another_one_is_not() -> None:
    def life(seed: int) -> Simulation:
        return simulate(Hub().emitter(StdoutEmitter(), name="out"), seconds=20, seed=seed)

    assert life(1) == life(1)
    assert life(1).virtual_seconds != life(2).virtual_seconds


def test_given_events_are_sent_and_what_is_durable_writes_to_no_disk(tmp_path: Path) -> None:
    hub = Hub().buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db")).ack("delivered")
    hub.middleware(Deduplicator(durable=True)).middleware(Aggregator(5, 1.0)).emitter(StdoutEmitter(), name="out")
    life = simulate(hub, seconds=30, events=[Event(id=f"e{n}", source="s", event_type="t") for n in range(50)])
    life.check()
    assert life.accepted == 50
    assert list(tmp_path.iterdir()) == []


def test_middleware_that_loses_events_is_found_out() -> None:
    def forgets(event: Event) -> Event:
        return Event(id=event.id, source=event.source, event_type="other", timestamp_unix_ns=1)

    life = simulate(Hub().middleware(Transform(forgets)).emitter(StdoutEmitter(), name="out"), seconds=5)
    with pytest.raises(AssertionError, match="seed 0"):
        life.check()
