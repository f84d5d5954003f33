"""`polku bench` with real pipelines, some of which lose or double events on purpose."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import POLKU, environment, polku, polku_here

FILTERING = """
from polku import BufferStrategy, Filter, Hub, Router, StdoutEmitter
def is_wanted(event): return int(event.id[6:11]) % 10 != 0
hub = Hub().buffer_strategy(BufferStrategy.durable("real.db")).middleware(Filter(is_wanted)).emitter(StdoutEmitter())

class Real:
    name = "real"
    async def run(self, *arguments): open("pulled", "w").close()

other = Hub().source(Real()).emitter(StdoutEmitter())
routed = Hub().middleware(Router().default("a")).emitter(StdoutEmitter(), name="a").emitter(StdoutEmitter(), name="b")
"""

FAULTY = """
import os
import grpc
from polku import Hub
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch

class Faulty:
    def __init__(self, copies): self.copies = copies
    name = "faulty"
    def start(self):
        channel = grpc.insecure_channel(os.environ["POLKU_BENCH_SINK"].removeprefix("http://"))
        self.call = channel.stream_stream(
            "/polku.v1.Gateway/StreamEvents", IngestBatch.SerializeToString, Ack.FromString)
    def emit(self, batch):
        for copies, events in ((1, list(batch)[1:]), (self.copies, list(batch)[:1])):
            for _ in range(copies):
                list(self.call(iter([IngestBatch(source="faulty", events=EventPayload(events=events))])))

losing = Hub().emitter(Faulty(copies=0))
doubling = Hub().emitter(Faulty(copies=3))
"""


def bench(*arguments: str, folder: Path | None = None, status: int = 0) -> dict[str, Any]:
    done = polku("bench", *arguments, "--json", folder=str(folder or ""), PYTHONPATH=os.getcwd())
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_built_in_pipeline_loses_nothing_and_everything_is_told() -> None:
    found = bench("--runtime", "inline", "--events", "20500", "--batch", "1000", "--connections", "3")
    (subject,) = found["subjects"]
    assert subject["counts"] | {"sent": 21_000, "acked": 21_000, "delivered": 21_000} == subject["counts"]
    nothing = ("lost", "duplicates", "reordered", "corrupted", "refused", "failed", "unanswered", "foreign")
    assert [subject["counts"][name] for name in nothing] == [0] * len(nothing)
    assert subject["medians"]["delivered_per_s"] > 1_000
    assert 0 < subject["accepted_ms"]["p50"] <= subject["accepted_ms"]["p99"] <= subject["accepted_ms"]["p99.9"]
    assert 0 < subject["end_to_end_ms"]["p50"] < 60_000
    assert 0.1 < subject["parts"]["pipeline"]["cpu_us_per_event"] < 1_000
    assert 5 < subject["parts"]["pipeline"]["memory_mb"] < 500
    assert found["machine"]["cores"] == os.cpu_count()
    assert "bench --runtime inline --events 20500" in found["command"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_on_ray_each_actor_has_its_own_figures() -> None:
    (subject,) = bench("--runtime", "ray", "--events", "5000")["subjects"]
    assert (subject["counts"]["delivered"], subject["counts"]["lost"]) == (5_000, 0)
    assert {"driver", "ingest", "stage-1", "buffer", "emitter:grpc"} <= subject["parts"].keys()
    assert all(part["memory_mb"] > 5 for part in subject["parts"].values())


def test_a_page_that_cannot_be_written_is_named_before_anything_is_measured() -> None:
    done = polku_here("bench", "--html", "/nonexistent/report.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--html='/nonexistent/report.html': cannot be written: No such file or directory" in done.stderr


def test_unary_calls_in_an_open_loop_keep_their_rate() -> None:
    found = bench("--runtime", "inline", "--unary", "--rate", "200", "--events", "200")
    (subject,) = found["subjects"]
    assert (subject["counts"]["delivered"], subject["counts"]["lost"]) == (200, 0)
    assert 10 < subject["medians"]["acked_per_s"] < 210


def test_a_file_is_measured_without_its_destinations_and_its_journal(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILTERING)
    arguments = ("mine.py", "--runtime", "inline", "--events", "5000", "--batch", "500", "--vs", "mine.py:other")
    found = bench(*arguments, "--rounds", "2", "--html", "report.html", folder=tmp_path)
    page = (report := tmp_path / "report.html").read_text()
    report.unlink()
    assert re.findall(r"<h2>([^<]*)</h2>", page) == ["mine.py, inline", "mine.py:other, inline"]
    assert [len(re.findall(kind, page)) for kind in ('class="in"', 'class="out"')] == [4, 4]  # of each round
    assert all(text in page for text in ("Filter(is_wanted)", "medians of 2 rounds", "9,000", str(os.cpu_count())))
    filtered, other = found["subjects"]
    assert (filtered["counts"]["acked"], filtered["counts"]["delivered"], filtered["counts"]["lost"]) == (
        10_000,
        9_000,
        0,
    )
    assert filtered["left_out"] == {"filtered": 1_000}
    assert (other["counts"]["delivered"], other["counts"]["lost"], other["left_out"]) == (10_000, 0, {})
    assert [len(subject["rounds"]) for subject in found["subjects"]] == [2, 2]
    routed = bench("mine.py:routed", "--runtime", "inline", "--events", "2000", folder=tmp_path)["subjects"][0]
    assert [routed["emitters"][name]["delivered"] for name in "ab"] == [2_000, 0]
    assert routed["counts"]["lost"] == 0
    assert found["ratios"]["mine.py:other, inline"] > 0
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name != "__pycache__") == ["mine.py"]


@pytest.mark.parametrize(
    ("name", "status", "lost", "duplicates"), [("losing", 1, True, False), ("doubling", 0, False, True)]
)
def test_a_pipeline_that_loses_or_doubles_is_found_out(
    tmp_path: Path, name: str, status: int, lost: bool, duplicates: bool
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    arguments = (f"faulty.py:{name}", "--keep-emitters", "--runtime", "inline", "--events", "2000", "--batch", "100")
    (subject,) = bench(*arguments, folder=tmp_path, status=status)["subjects"]
    counts = subject["counts"]
    assert counts["acked"] == 2_000
    assert (counts["lost"] > 0, counts["duplicates"] > 0) == (lost, duplicates)
    assert counts["lost"] == 2_000 - counts["delivered"]


def test_people_get_a_table() -> None:
    done = polku("bench", "--runtime", "inline", "--events", "2000", "--vs-bare", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"lost +0 +0", done.stdout)
    assert "bare gRPC" in done.stdout
    assert "µs" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch=0: write a number of events from 1 to 100000"),
        (["--in-flight", "0"], "--in-flight=0: write a whole number, at least 1"),
        (["--in-flight", "2", "--connections", "3"], "--in-flight=2: 3 connections need at least one message each"),
        (["--events", "0"], "--events=0: write a whole number, at least 1"),
        (["--rate", "nan"], "--rate=nan: must not be below 0"),
        (["--size", "5"], "--size=5: an event takes at least"),
        (["--rounds", "-2"], "--rounds=-2: write a whole number"),
        (["--runtime", "thread"], "--runtime='thread': choose one of ray, inline"),
        (["--vs-runtime", "thread"], "--vs-runtime='thread': choose one of ray, inline"),
        (["--vs", "nowhere.py"], "--vs='nowhere.py': there is no such file"),
        (["nowhere.py"], "FILE='nowhere.py': there is no such file"),
        (["--keep-emitters"], "--keep-emitters=True: is for a FILE of yours"),
        (["--events", "many"], "--events"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    done = polku_here("bench", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_file_that_cannot_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    done = polku("bench", str(tmp_path / "none.py"), "--runtime", "inline", "--events", "10")
    assert done.returncode == 2
    assert "has no Hub named 'hub'" in done.stderr


def test_a_terminal_sees_a_bar_for_each_measurement() -> None:
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [*POLKU, "bench", "--runtime", "inline", "--seconds", "0.2", "--rounds", "2"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=environment(TERM="xterm", COLUMNS="120"),
        text=True,
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # the other end is gone
        while data := os.read(screen, 65536):
            shown += data
    os.close(screen)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "medians of 2 rounds" in out
    assert "built-in, inline, round 1" in shown.decode()
    assert "built-in, inline, round 2" in shown.decode()
