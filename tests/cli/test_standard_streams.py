"""Commands whose standard streams are closed, or lead to a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = 'from polku import Hub, StdoutEmitter\nhub = Hub(runtime="inline").emitter(StdoutEmitter())\n'


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    (folder / "pipeline.py").write_text(PIPELINE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "POLKU": f"{sys.executable} -m polku"}
    shell = ["bash", "-c", command]
    return subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_leaves_its_number_to_nothing_else(closed: str, tmp_path: Path) -> None:
    done = run(tmp_path, f"$POLKU validate pipeline.py {closed}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["graph pipeline.py", "--help"])
def test_a_full_disk_is_a_sentence(command: str, tmp_path: Path) -> None:
    done = run(tmp_path, f"$POLKU {command} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "polku: [Errno 28] No space left on device\n")
