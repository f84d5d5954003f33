"""A pipeline of actors takes another plan under load: nothing is lost, doubled or out of order, or nothing changes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from polku import Batch, ChangeError, Event, Hub, Pipeline, Transform, new_event
from polku.aio import loop_thread
from polku.runtime.changing import Changed
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")


class Flood:
    """Send events one after the other from some threads, until `end`: each has a source and numbers of its own."""

    def __init__(self, pipeline: Pipeline, senders: int = 3) -> None:
        self.counts = [0] * senders
        self.faults: list[str] = []
        self._pipeline = pipeline
        self._ends = False
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(senders)]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        sender = self._pipeline.sender()
        while not self._ends:
            first = self.counts[number]
            ids = [f"{number}-{n:06d}" for n in range(first, first + 5)]
            ack = sender.send([new_event("t", id=i, source=f"s{number}") for i in ids])
            if not ack.ok:
                self.faults.append(str(ack))
                return
            self.counts[number] = first + 5

    def go_on(self, events: int = 100) -> None:
        """Return when each sender has sent that many more events."""
        wanted = [count + events for count in self.counts]
        deadline = time.monotonic() + 30.0
        while any(count < want for count, want in zip(self.counts, wanted, strict=True)):
            assert not self.faults
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self) -> set[str]:
        """Return the ids that were sent."""
        self._ends = True
        for thread in self._threads:
            thread.join(60)
        assert not self.faults
        return {f"{number}-{n:06d}" for number, count in enumerate(self.counts) for n in range(count)}


def update(pipeline: Pipeline, hub: Hub, seconds: float = 10.0) -> Changed:
    return pipeline.update_plan(hub.plan("ray"), timeout=seconds)


def check(sent: set[str], got: list[Event], *, may_repeat: bool = False) -> None:
    """Check that what was sent arrived, once, and in the order of each sender."""
    ids = [event.id for event in got]
    assert len(sent) > 100
    assert set(ids) == sent, f"{len(sent - set(ids))} are lost"
    if not may_repeat:
        assert len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} are doubled"
    firsts = list(dict.fromkeys(ids))
    for sender in {event_id[0] for event_id in sent}:
        own = [event_id for event_id in firsts if event_id[0] == sender]
        assert own == sorted(own)


def tagging(tag: str) -> Transform:
    def tag_it(event: Event) -> None:
        event.metadata["tag"] = event.metadata["tag"] + tag

    return Transform(tag_it)


def chain(path: Path, tag: str, *others: str, by: str = "first", stages: int = 1) -> Hub:
    """Return a hub with stages that tag events, a recorder, and others by their names."""
    hub = Hub(runtime="ray").middleware(tagging(tag), name="tagging")
    for number in range(1, stages):
        hub.middleware(tagging(""), name=f"stage of its own {number}", isolate=True)
    for other in others:
        name, _, formerly = other.partition(" was ")
        hub.emitter(Recorder(path / (formerly or name)), name=name, formerly=formerly or None)
    return hub.emitter(Recorder(path / "out", name=by), name="out")


def test_each_kind_of_change_under_load(tmp_path: Path) -> None:
    with chain(tmp_path, "a").start() as pipeline:
        flood = Flood(pipeline)
        for hub in (
            chain(tmp_path, "b"),
            chain(tmp_path, "b", "second", by="another"),
            chain(tmp_path, "c", "third was second", by="another", stages=2),
            chain(tmp_path, "d", by="another", stages=2),
        ):
            flood.go_on()
            changed = update(pipeline, hub)
            assert changed.stages_seconds < 30.0
            assert not changed.again
        flood.go_on()
        hub = chain(tmp_path, "e").emitter(Failing(), name="failing")
        with pytest.raises(ChangeError, match=r"emitter:failing does not start: OSError: its address is wrong"):
            update(pipeline, hub)
        pipeline.note_reload("its address is wrong")
        wait_until(lambda: not pipeline.health().components.get("reload", (True, ""))[0])
        wait_until(lambda: pipeline.statistics().reloads.reason == "its address is wrong")
        assert pipeline.statistics().reloads.refused == 1
        flood.go_on()
        sent = flood.end()
        pipeline.note_reload()
        wait_until(lambda: pipeline.health().healthy)
        names = {"ingest", "stage-1", "stage-2", "buffer", "emitter:out"}
        wait_until(lambda: pipeline.health().components.keys() == names)
    check(sent, Recorder(tmp_path / "out").events())
    tags = [event.metadata["tag"] for event in Recorder(tmp_path / "out").events()]
    assert list(dict.fromkeys(tags)) == ["a", "b", "c", "d"]
    second = [event.id for event in Recorder(tmp_path / "second").events()]
    assert len(second) == len(set(second)) > 50
    third = [event.metadata["tag"] for event in Recorder(tmp_path / "second").events()]
    # Until every part has changed, all may be taken back: so long what is gone gets events too.
    assert list(dict.fromkeys(third)) in (["b", "c"], ["b", "c", "d"])


class Failing:
    """An emitter that does not start."""

    def start(self) -> None:
        raise OSError("its address is wrong")

    def emit(self, batch: Batch) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["stage-1", pytest.param("emitter:out", marks=pytest.mark.slow)])
def test_an_actor_is_killed_in_the_middle_of_a_change(victim: str, tmp_path: Path) -> None:
    with chain(tmp_path, "a").start() as pipeline:
        flood = Flood(pipeline)
        flood.go_on()
        pid = pids(pipeline)[victim]
        hub = chain(tmp_path, "b", by="another")
        changing = loop_thread.submit(pipeline.update(hub, timeout=20.0))
        time.sleep(0.1)  # anywhere in it
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChangeError):
            changing.result(60.0)
        update(pipeline, chain(tmp_path, "c", by="a third"))
        flood.go_on()
        wait_until(lambda: victim in pids(pipeline))
        os.kill(pids(pipeline)[victim], signal.SIGKILL)  # what comes back is of the plan of now
        flood.go_on()
        sent = flood.end()
    check(sent, Recorder(tmp_path / "out").events(), may_repeat=True)
    assert [event.metadata["tag"] for event in Recorder(tmp_path / "out").events()][-1] == "c"


def pids(pipeline: Pipeline) -> dict[str, int]:
    """Return the processes of the parts that are there now."""
    runtime: Any = pipeline._runtime
    found = {}
    for name, handle in runtime.parts.all().items():
        with contextlib.suppress(ray.exceptions.RayActorError):  # it is being started again, or another has its place
            found[name] = ray.get(handle.vitals.remote()).pid
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
def test_random_changes_while_actors_are_killed(lanes: int, tmp_path: Path) -> None:
    chance = random.Random(lanes)

    def version() -> Hub:
        others = [name for name in ("x", "y") if chance.random() < 0.5]
        tag, by = str(chance.randrange(3)), str(chance.randrange(3))
        return chain(tmp_path, tag, *others, by=by, stages=chance.randrange(1, 4)).lanes(lanes)

    done = 0
    refused: list[str] = []
    with version().start() as pipeline:
        flood = Flood(pipeline)
        for _ in range(60 // lanes):
            flood.go_on(20)
            changing = loop_thread.submit(pipeline.update(version(), timeout=20.0))
            if chance.random() < 0.4:
                time.sleep(chance.random())
                victims = [pid for name, pid in pids(pipeline).items() if "stage" in name or "emitter" in name]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
            try:
                changing.result(180.0)
                done += 1
            except ChangeError as error:
                refused.append(str(error))
        flood.go_on()
        sent = flood.end()
    assert done > 20 // lanes, refused
    assert not any("halfway" in reason for reason in refused)
    check(sent, Recorder(tmp_path / "out").events(), may_repeat=True)
