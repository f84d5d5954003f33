"""Ray tasks as middleware, in a real Ray: other processes do the work, and one that dies costs only time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polku import Event, Hub, RemoteStep
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")

IDS = [str(number) for number in range(40)]


class Work:
    """Note the process; the first task that has event 7 kills its worker, and each that has event 13 does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, event: Event) -> None:
        if event.id == "7" and not (once := self._folder / "died").exists():
            once.touch()
            os._exit(1)
        if event.id == "13":
            os._exit(1)
        if event.id == "21":
            raise ValueError("no picture")
        event.metadata["process"] = str(os.getpid())


@pytest.mark.parametrize("runtime", ["ray", pytest.param("inline", marks=pytest.mark.slow)])
def test_tasks_do_the_work_and_a_worker_that_dies_loses_nothing(runtime: str, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    step = RemoteStep(Work(tmp_path), max_events=16, num_cpus=0.5)
    with Hub(runtime=runtime).middleware(step).emitter(recorder).start() as pipeline:
        answer = pipeline.sender().send([Event(id=event_id, event_type="t", source="s") for event_id in IDS])
        events = recorder.wait_for(38, timeout=60)
    refused = {refusal.event_id: refusal.message for refusal in answer.refused}
    assert list(refused) == ["13", "21"]
    assert "its worker died" in refused["13"]
    assert "ValueError: no picture" in refused["21"]
    assert [event.id for event in events] == [event_id for event_id in IDS if event_id not in refused]
    assert str(os.getpid()) not in {event.metadata["process"] for event in events}
