"""Start `tests.durable.worker` and read what it says."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

STARTED: list[subprocess.Popen[str]] = []


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
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=errors, text=True)
    STARTED.append(process)
    return process


def said(folder: Path, word: str) -> list[str]:
    lines = (folder / "said").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == word]


def wait_until_said(folder: Path, word: str, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(said(folder, word)) < count:
        assert process.poll() in (None, 0), (folder / "errors").read_text()
        assert time.monotonic() < deadline, (folder / "errors").read_text()
        time.sleep(0.005)
