"""A part that was restarted and cannot start loses nothing: it is started until it works, and health says why."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions

from polku import BufferStrategy, Event, Hub, Pipeline, new_event
from polku.actors.object_ref_queue import _explain
from polku.errors import JournalError, UnavailableError
from tests.support.recorder import Recorder


class Database(Recorder):
    """A recorder that cannot start while the file `<path>.down` exists, and says in which process it is."""

    def start(self) -> None:
        if self.down.exists():
            raise ConnectionError("the database is down")
        self.path.with_suffix(".pid").write_text(str(os.getpid()))

    @property
    def down(self) -> Path:
        return self.path.with_suffix(".down")

    @property
    def pid(self) -> int:
        return int(self.path.with_suffix(".pid").read_text())


class Lookup:
    """Middleware that needs the database when it starts."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def start(self) -> None:
        self.database.start()

    def process(self, events: list[Event]) -> list[Event]:
        return events


def wait_for_complaint(pipeline: Pipeline, part: str, timeout: float = 60.0) -> str:
    deadline = time.monotonic() + timeout
    while True:
        healthy, text = pipeline.health().components.get(part, (True, ""))
        if not healthy and "cannot start" in text:
            return text
        assert time.monotonic() < deadline, pipeline.health().components
        time.sleep(0.1)


@pytest.mark.usefixtures("ray_session")
def test_an_emitter_that_cannot_start_again_holds_its_events_and_no_others(tmp_path: Path) -> None:
    database, other = Database(tmp_path / "db", "db"), Recorder(tmp_path / "other", "other")
    hub = Hub(runtime="ray").emitter(database).emitter(other)
    with hub.start() as pipeline:
        sender = pipeline.sender()
        assert sender.send(new_event("x", id="first")).ok
        database.wait_for(1)
        database.down.touch()
        os.kill(database.pid, signal.SIGKILL)
        for number in range(20):
            assert sender.send([new_event("x", id=f"{number:02d}-{n}") for n in range(100)]).ok
        assert wait_for_complaint(pipeline, "emitter:db") == "cannot start: ConnectionError: the database is down"
        other.wait_for(2_001)
        assert pipeline.dead_letters() == []
        database.down.unlink()
        database.wait_for(2_001)
        report = pipeline.stop(30)
    assert report.complete
    assert report.emitters["db"].delivered == 2_001
    assert len({event.id for event in database.events()}) == 2_001


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_chained_lane_that_cannot_start_again_tries_with_its_journal_until_it_can(tmp_path: Path) -> None:
    database = Database(tmp_path / "db", "db")
    strategy = BufferStrategy.durable(tmp_path / "journal")
    hub = Hub(runtime="ray").chain().buffer_strategy(strategy).middleware(Lookup(database)).emitter(database)
    database.hold()
    with hub.start() as pipeline:
        sender = pipeline.sender()
        assert sender.send([new_event("x", id=f"{number}") for number in range(100)]).ok
        database.down.touch()
        os.kill(database.pid, signal.SIGKILL)
        assert wait_for_complaint(pipeline, "lane") == "cannot start: ConnectionError: the database is down"
        database.down.unlink()
        database.release()
        database.wait_for(100)
        assert sender.send(new_event("x", id="after")).ok
        report = pipeline.stop(30)
    assert report.complete
    assert {event.id for event in database.events()} >= {*map(str, range(100)), "after"}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("chained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_at_the_start_of_a_pipeline_it_is_an_error_at_once(chained: bool, tmp_path: Path) -> None:
    database = Database(tmp_path / "db", "db")
    database.down.touch()
    hub = Hub(runtime="ray").emitter(database)
    with pytest.raises(ConnectionError, match="the database is down"):
        (hub.chain() if chained else hub).start()


def test_whatever_an_actor_fails_with_is_no_verdict_unless_it_is_an_error_of_ours() -> None:
    def raised(error: Exception) -> Any:
        return ray.exceptions.RayTaskError("push", "…", error).as_instanceof_cause()

    unknown = [
        raised(ConnectionError("down")),
        raised(ray.exceptions.WorkerCrashedError()),
        ray.exceptions.OutOfMemoryError("killed"),
        ray.exceptions.RaySystemError(Exception("no raylet")),
        ray.exceptions.ObjectLostError("0" * 56, None, ""),
        pickle.PicklingError("no"),
        MemoryError("no room"),
    ]
    for error in unknown:
        explained = _explain("emitter db", error)
        assert isinstance(explained, UnavailableError), error
        assert not explained.died
        assert str(explained).startswith("emitter db failed: ")
    assert str(_explain("buffer", raised(JournalError("j", "full")))) == "journal j: full"
    assert type(_explain("buffer", JournalError("j", "full"))) is JournalError
