"""The process of a durable buffer is killed again and again: what it had answered for arrives, once more started."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 30)


def start(folder: Path, *options: str, journal: Path | None = None) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "tests.durable.worker",
        str(journal or folder / "journal.db"),
        str(folder),
        *options,
    ]
    with (folder / "said").open("a") as said, (folder / "errors").open("a") as errors:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=errors, text=True)


def said(folder: Path, word: str) -> list[str]:
    lines = (folder / "said").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == word]


def wait_until_said(folder: Path, word: str, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(said(folder, word)) < count:
        assert process.poll() in (None, 0), (folder / "errors").read_text()
        assert time.monotonic() < deadline, (folder / "errors").read_text()
        time.sleep(0.005)


@pytest.mark.timeout(180)
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    print(f"TEST_SEED={SEED}")
    chance = random.Random(SEED)
    in_flight = 0
    for life in range(8):
        if life % 3 == 1:
            (tmp_path / "two.hold").touch()
        elif life % 3 == 2:
            (tmp_path / "two.hold").unlink(missing_ok=True)
        begin, ready = life * 100_000, len(said(tmp_path, "ready")) if life else 0
        process = start(tmp_path, f"--start={begin}", f"--end={begin + 100_000}", "--sources=3")
        wait_until_said(tmp_path, "ready", ready + 1, process)
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        in_flight += len(said(tmp_path, "sent")) > len(said(tmp_path, "ack"))
    (tmp_path / "two.hold").unlink(missing_ok=True)
    last = start(tmp_path)
    wait_until_said(tmp_path, "closed", 1, last)
    sent, acknowledged = said(tmp_path, "sent"), said(tmp_path, "ack")
    assert in_flight >= 4, "the process died while nothing was under way"
    assert len(acknowledged) > 1_000
    assert said(tmp_path, "refused") == []
    for name in ("one", "two"):
        arrived = (tmp_path / name).read_text().split()
        assert set(acknowledged) <= set(arrived), f"seed {SEED}"
        assert set(arrived) <= set(sent)
        for source in "012":
            firsts = list(dict.fromkeys(event_id for event_id in arrived if event_id[0] == source))
            assert firsts == sorted(firsts), f"seed {SEED}"
