"""Models on Ray: one in each replica, loaded and warm before it gets events; one that dies costs nothing but time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from polku import Batching, Code, Event, Hub, Pipeline, new_event
from tests.ray.test_poison import wait_until_well
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")

POISON = "e-077"
IDS = [f"e-{number:03d}" for number in range(400)]


class Model:
    """Note in a file when it is made and warmed up, and label events with its process; one event kills it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._note("made")

    def start(self) -> None:
        self._note("loaded")

    def predict(self, events: list[Event]) -> list[dict[str, str]]:
        if events[0].event_type == "example":
            self._note(f"warmed up with {len(events)}")
        if any(event.id == POISON for event in events):
            os._exit(1)
        return [{"process": str(os.getpid()), "with": str(len(events))} for _ in events]

    def _note(self, what: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{os.getpid()} {what}\n")


def hub(tmp_path: Path) -> Hub:
    import functools

    batching = Batching(max_events=16, warm_up=new_event("example", id="example"))
    return (
        Hub(runtime="ray")
        .middleware(functools.partial(Model, str(tmp_path / "notes")), batching=batching, replicas=2)
        .emitter(Recorder(tmp_path / "out"))
    )


def notes(tmp_path: Path) -> dict[str, list[str]]:
    """Return what each process has noted."""
    found: dict[str, list[str]] = {}
    for line in (tmp_path / "notes").read_text().splitlines():
        process, _, what = line.partition(" ")
        found.setdefault(process, []).append(what)
    return found


def called(pipeline: Pipeline) -> list[float]:
    """Return how many events the model of each replica was called with, once these are all."""
    limit = time.monotonic() + 30
    while True:
        stages = [stage.calls for lane in pipeline.statistics().lanes for stage in lane.stages.values()]
        found = [calls.events.sum for calls in stages if calls is not None]
        if sum(found) == 399:
            return found
        assert time.monotonic() < limit, found
        time.sleep(0.1)


def test_each_replica_has_a_model_that_was_warm_before_it_got_events(tmp_path: Path) -> None:
    with hub(tmp_path).start() as pipeline:
        sender = pipeline.sender()
        for start in range(0, 400, 50):
            events = [Event(id=i, event_type="t") for i in IDS[start : start + 50] if i != POISON]
            assert not sender.send(events).refused
        sizes = called(pipeline)
    delivered = Recorder(tmp_path / "out").events()
    assert [event.id for event in delivered] == [event_id for event_id in IDS if event_id != POISON]
    assert list(notes(tmp_path).values()) == [["made", "loaded", "warmed up with 16"]] * 2
    assert {event.metadata["process"] for event in delivered} <= notes(tmp_path).keys()
    assert len(sizes) == 2


@pytest.mark.slow
def test_an_event_that_kills_the_model_s_process_is_found_and_the_others_go_on(tmp_path: Path) -> None:
    with hub(tmp_path).start() as pipeline:
        answer: Any = pipeline.sender().send([Event(id=event_id, event_type="t") for event_id in IDS[70:90]])
        assert [(r.event_id, r.code) for r in answer.refused] == [(POISON, Code.POISON)]
        delivered = Recorder(tmp_path / "out").wait_for(19)
        wait_until_well(pipeline)
    assert [event.id for event in delivered] == [event_id for event_id in IDS[70:90] if event_id != POISON]
    made = notes(tmp_path)
    assert len(made) > 2
    assert all(what[:3] == ["made", "loaded", "warmed up with 16"][: len(what)] for what in made.values())
