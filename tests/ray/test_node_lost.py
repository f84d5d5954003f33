"""On several nodes: who runs where, and what becomes of it when a node is lost under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(program: str, folder: Path) -> Any:
    command = [sys.executable, "-m", f"tests.ray.{program}", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=140, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.mark.timeout(150)
def test_all_parts_are_on_the_node_of_the_program_but_those_that_need_something_from_elsewhere(tmp_path: Path) -> None:
    found = run("placed", tmp_path)
    assert found["complete"]
    where = found["where"]
    assert where.pop("stage-2") == "127.0.0.3"
    assert {"ingest", "stage-1", "buffer", "emitter:recorder"} <= where.keys()
    assert set(where.values()) == {"127.0.0.1"}


@pytest.mark.timeout(150)
def test_a_stage_whose_node_is_lost_goes_on_elsewhere_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    found = run("node_lost", tmp_path)
    assert found["complete"]
    verdict = found["verdict"]
    assert verdict["acknowledged"] > 1_000
    assert (verdict["lost"], verdict["invented"], verdict["corrupted"], verdict["reordered"]) == (0, 0, 0, 0)
