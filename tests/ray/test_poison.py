"""An event that kills or blocks whatever works on it costs only itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from polku import Aggregator, Batch, Code, Event, Hub, Pipeline
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")

POISON = "e-0037"
# The search halves the events, and each half that dies costs a new process.
sizes = pytest.mark.parametrize("count", [8, *(pytest.param(count, marks=pytest.mark.slow) for count in (64, 1_000))])


def die_of_it(event: Event) -> None:
    if event.id == POISON:
        os._exit(1)


def hang_on_it(event: Event) -> None:
    if event.id == POISON:
        time.sleep(3_600)


def die_of_what_is_made_of_it(event: Event) -> None:
    if POISON.encode() in event.payload:
        os._exit(1)


class DiesOfIt:
    """Confirm batches, unless the poison is among their events."""

    name = "recorder"

    def __init__(self, path: Path) -> None:
        self._recorder = Recorder(path)

    def emit(self, batch: Batch) -> Any:
        if POISON in batch.ids:
            os._exit(1)
        return self._recorder.emit(batch)


def dead_letters(pipeline: Pipeline, part: str) -> list[Any]:
    import ray

    parts: Any = pipeline._runtime.parts  # type: ignore[attr-defined]
    letters: list[Any] = ray.get(parts.all()[part].dead_letters.remote())
    return letters


def wait_until_well(pipeline: Pipeline, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not (health := pipeline.health()).healthy:  # what was ended last takes a moment to be seen again
        assert time.monotonic() < deadline, health
        time.sleep(0.1)


def ids_of(count: int) -> list[str]:
    return [f"e-{number:04d}" for number in range(30, 30 + count)]


def send(pipeline: Pipeline, ids: list[str]) -> Any:
    return pipeline.sender().send([Event(id=event_id, event_type="t") for event_id in ids])


@sizes
@pytest.mark.parametrize("poison", [die_of_it, pytest.param(hang_on_it, marks=pytest.mark.slow)])
def test_an_event_that_kills_or_blocks_its_stage_is_found_and_the_others_go_on(
    poison: Any, count: int, tmp_path: Path
) -> None:
    ids = ids_of(count)
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").middleware(poison).supervise(hang_seconds=1).emitter(recorder)
    with hub.start() as pipeline:
        ack = send(pipeline, ids)
        letters = dead_letters(pipeline, "ingest")
        wait_until_well(pipeline)
    assert [(refusal.event_id, refusal.code) for refusal in ack.refused] == [(POISON, Code.POISON)]
    assert list(ack.event_ids) == [event_id for event_id in ids if event_id != POISON]
    assert [event.id for event in recorder.events()] == list(ack.event_ids)
    assert [(letter.event.id, letter.code) for letter in letters] == [(POISON, Code.POISON)]


@pytest.mark.slow
def test_an_event_that_kills_its_stage_when_it_is_released_by_an_aggregator_is_found(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    aggregator = Aggregator(size=1_000, within=0.3, strategy="concat")
    hub = Hub(runtime="ray").middleware(aggregator).middleware(die_of_what_is_made_of_it).emitter(recorder)
    ids = ids_of(10)
    with hub.start() as pipeline:
        events = [Event(id=event_id, event_type="t", payload=f"{event_id} ".encode()) for event_id in ids]
        ack = pipeline.sender().send(events)
        letters = dead_letters(pipeline, "ingest")
        assert pipeline.stop(60).complete
    assert [(refusal.event_id, refusal.code) for refusal in ack.refused] == [(POISON, Code.POISON)]
    assert list(ack.event_ids) == [event_id for event_id in ids if event_id != POISON]
    assert [(letter.event.id, letter.code) for letter in letters] == [(POISON, Code.POISON)]
    got = b"".join(event.payload for event in recorder.events()).decode().split()
    assert got == list(ack.event_ids)


@sizes
def test_an_event_that_kills_its_emitter_becomes_a_dead_letter_and_the_others_arrive(
    count: int, tmp_path: Path
) -> None:
    ids = ids_of(count)
    with Hub(runtime="ray").emitter(DiesOfIt(tmp_path / "out")).start() as pipeline:
        ack = send(pipeline, ids)
        report = pipeline.stop(60)
    assert not ack.refused
    assert (report.complete, report.emitters["recorder"].dead) == (True, 1)
    got = [event.id for event in Recorder(tmp_path / "out").events()]
    assert got == [event_id for event_id in ids if event_id != POISON]
