"""The S3Emitter at the end of a pipeline: by size, by age, at a drain, through SIGKILL, within its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from polku import BufferStrategy, Event, Hub, S3Emitter, new_event
from tests.emit.s3_memory import LIMIT, NAMES


def lines(folder: Path) -> list[list[str]]:
    """Return the ids of each object."""
    return [
        [json.loads(line)["id"] for line in path.read_text().splitlines()] for path in sorted(folder.rglob("*.ndjson"))
    ]


def ids(folder: Path) -> list[str]:
    return sorted(event_id for content in lines(folder) for event_id in content)


def events(count: int, source: str = "s") -> list[Event]:
    return [new_event("t", source=source, id=f"{source}-{n:05d}") for n in range(count)]


def wait_until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_an_object_is_complete_by_size(tmp_path: Path) -> None:
    emitter = S3Emitter(tmp_path.as_uri(), max_events=500, max_age=3600)
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        for start in range(0, 1_200, 100):
            assert pipeline.sender().send(events(1_200)[start : start + 100]).ok
        wait_until(lambda: len(lines(tmp_path)) == 2)
        assert list(map(len, lines(tmp_path))) == [500, 500]
    assert sorted(map(len, lines(tmp_path))) == [200, 500, 500]
    assert ids(tmp_path) == [event.id for event in events(1_200)]


def test_an_object_is_complete_by_age(tmp_path: Path) -> None:
    with Hub(runtime="inline").emitter(S3Emitter(tmp_path.as_uri(), max_age=0.3)).start() as pipeline:
        assert pipeline.sender().send(events(10)).ok
        assert lines(tmp_path) == []
        wait_until(lambda: list(map(len, lines(tmp_path))) == [10])


def test_a_drain_completes_what_is_open(tmp_path: Path) -> None:
    pipeline = Hub(runtime="inline").emitter(S3Emitter(tmp_path.as_uri(), max_age=3600)).start()
    for source in ("a", "b", "c"):
        assert pipeline.sender().send(events(100, source)).ok
    report = pipeline.stop(60)
    assert report.complete
    assert report.seconds < 30
    assert report.emitters["s3"][:4] == (300, 0, 0, 0)
    assert list(map(len, lines(tmp_path))) == [100, 100, 100]


def test_a_drain_completes_what_clients_wait_for(tmp_path: Path) -> None:
    hub = Hub(runtime="inline").ack("delivered").emitter(S3Emitter(tmp_path.as_uri(), max_age=3600))
    pipeline = hub.start()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(pipeline.sender().send, events(10))
        wait_until(lambda: pipeline.health().components["buffer"][1] == "10 of 10000 events")
        report = pipeline.stop(20)
        assert answer.result(30).ok
    assert report.complete
    assert report.emitters["s3"].delivered == 10


def test_a_client_at_the_delivered_level_is_answered_when_the_object_is_complete(tmp_path: Path) -> None:
    hub = (
        Hub(runtime="inline")
        .ack("delivered")
        .emitter(S3Emitter(tmp_path.as_uri(), key="{metadata.k}/{batch}", max_age=0.3))
    )
    with hub.start() as pipeline:
        good = new_event("t", id="good", metadata={"k": "v"})
        receipt = pipeline.sender().send([good, new_event("t", id="bad")])
        assert ids(tmp_path) == ["good"]
        assert receipt.event_ids == ("good",)
        (refusal,) = receipt.refused
        assert refusal.event_id == "bad"
        assert "the event has no metadata.k" in refusal.message


def test_an_event_without_a_name_is_a_dead_letter_with_the_reason(tmp_path: Path) -> None:
    emitter = S3Emitter(tmp_path.as_uri(), key="{metadata.k}/{batch}", max_age=0.05)
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        sender = pipeline.sender()
        assert sender.send([new_event("t", id="bad"), new_event("t", id="good", metadata={"k": "v"})]).ok
        assert sender.send(new_event("t", id="long", metadata={"k": "x" * 10_240})).ok
        wait_until(lambda: len(pipeline.dead_letters()) == 2)
        letters = {letter.event.id: letter for letter in pipeline.dead_letters()}
        assert "the event has no metadata.k" in letters["bad"].reason
        assert "the object's key would have" in letters["long"].reason
    assert ids(tmp_path) == ["good"]


def test_a_buffer_smaller_than_an_object_makes_smaller_objects(tmp_path: Path) -> None:
    hub = (
        Hub(runtime="inline")
        .buffer_strategy(BufferStrategy.ring(200))
        .emitter(S3Emitter(tmp_path.as_uri(), max_age=3600))
    )
    began = time.monotonic()
    with hub.start() as pipeline:
        for start in range(0, 2_000, 50):
            assert pipeline.sender().send(events(2_000)[start : start + 50]).ok
        assert pipeline.sender().send(events(500, "large")).ok
    assert time.monotonic() - began < 60
    assert len(ids(tmp_path)) == 2_500
    assert len(lines(tmp_path)) < 60


def test_a_folder_that_cannot_be_made_is_an_illness_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with Hub(runtime="inline").emitter(S3Emitter((file / "x").as_uri(), max_age=0.05)).start() as pipeline:
        assert pipeline.sender().send(events(10)).ok
        wait_until(lambda: not pipeline.health().healthy)
        assert "file" in pipeline.health().components["emitter:s3"][1]
        report = pipeline.stop(0.1)
        assert not report.complete
        assert report.emitters["s3"].left == 10


def worker(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.emit.s3_worker", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_process_killed_between_upload_and_confirmation_writes_the_same_objects_again(tmp_path: Path) -> None:
    folder, journal = tmp_path / "out", tmp_path / "journal.db"
    with worker(folder, journal, 3_500, "stall") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "sent\n"
        wait_until((tmp_path / "out.uploaded").exists)
        killed.kill()
    (before,) = lines(folder)
    assert len(before) == 1_000  # complete, and unconfirmed
    names = {path.name for path in folder.rglob("*.ndjson")}
    with worker(folder, journal, 0) as after:
        assert after.wait(120) == 0
    assert names < {path.name for path in folder.rglob("*.ndjson")}
    assert sorted(map(len, lines(folder))) == [500, 1_000, 1_000, 1_000]
    assert ids(folder) == [f"{n:06d}" for n in range(3_500)]  # each once


@pytest.mark.parametrize("megabytes", ["10", pytest.param("120", marks=pytest.mark.slow)])
def test_memory_is_bounded_with_a_thousand_open_objects(megabytes: str, tmp_path: Path) -> None:
    out, journal = str(tmp_path / "out"), str(tmp_path / "journal.db")
    command = [sys.executable, "-m", "tests.emit.s3_memory", out, journal, megabytes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    before, most, held, groups = map(int, done.stdout.split())
    assert groups >= NAMES
    assert held <= LIMIT
    assert most - before < 80, f"{before} MB before, {most} MB at most"
