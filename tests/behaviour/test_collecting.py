"""An emitter whose calls are filled from many batches, on both runtimes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from polku import BufferStrategy, Hub, S3Emitter, new_event
from tests.behaviour.conftest import Start, on_ray_when_slow


def ids(folder: Path) -> list[str]:
    files = sorted(folder.rglob("*.ndjson"))
    return sorted(json.loads(line)["id"] for path in files for line in path.read_text().splitlines())


@on_ray_when_slow
def test_many_small_batches_make_one_object_and_a_drain_completes_it(start: Start, tmp_path: Path) -> None:
    pipeline = start(Hub().emitter(S3Emitter(tmp_path.as_uri(), key="{batch}", max_age=3600)))
    sender = pipeline.sender()
    for n in range(300):
        assert sender.send(new_event("t", id=f"{n:05d}")).ok
    report = pipeline.stop(30)
    assert report.complete
    assert report.emitters["s3"][:4] == (300, 0, 0, 0)
    assert len(list(tmp_path.rglob("*.ndjson"))) == 1
    assert ids(tmp_path) == [f"{n:05d}" for n in range(300)]


@on_ray_when_slow
def test_a_buffer_smaller_than_an_object_makes_smaller_objects(start: Start, tmp_path: Path) -> None:
    hub = (
        Hub()
        .buffer_strategy(BufferStrategy.ring(200))
        .emitter(S3Emitter(tmp_path.as_uri(), key="{batch}", max_age=3600))
    )
    pipeline = start(hub)
    sender = pipeline.sender()
    for first in range(0, 2_000, 50):
        assert sender.send([new_event("t", id=f"{n:05d}") for n in range(first, first + 50)]).ok
    assert pipeline.stop(30).complete
    assert ids(tmp_path) == [f"{n:05d}" for n in range(2_000)]
    assert len(list(tmp_path.rglob("*.ndjson"))) < 60


def test_what_an_emitter_had_collected_when_it_was_killed_is_collected_again(
    arrangement: str, start: Start, tmp_path: Path
) -> None:
    if arrangement != "ray":
        pytest.skip("the emitter has no process of its own")
    import ray

    pipeline = start(Hub().emitter(S3Emitter(tmp_path.as_uri(), key="{batch}", max_age=3600)))
    sender = pipeline.sender()
    for n in range(20):
        assert sender.send([new_event("t", id=f"{n:02d}-{m:02d}") for m in range(50)]).ok
    emitter = pipeline._runtime.parts.lanes[0].emitters["s3"]  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30
    while ray.get(emitter.statistics.remote()).collection.events < 1_000:
        assert time.monotonic() < deadline
    os.kill(ray.get(emitter.vitals.remote()).pid, signal.SIGKILL)
    report = pipeline.stop(60)
    assert report.complete
    assert set(ids(tmp_path)) == {f"{n:02d}-{m:02d}" for n in range(20) for m in range(50)}
