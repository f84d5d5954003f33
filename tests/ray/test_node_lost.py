"""A node is lost under load: what ran there starts elsewhere, and nothing acknowledged is lost."""

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
def test_a_stage_whose_node_is_lost_goes_on_elsewhere_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    found = run("node_lost", tmp_path)
    assert found["complete"]
    verdict = found["verdict"]
    assert verdict["acknowledged"] > 1_000
    assert (verdict["lost"], verdict["invented"], verdict["corrupted"], verdict["reordered"]) == (0, 0, 0, 0)
