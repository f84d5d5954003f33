"""A node is lost under load: what ran there starts elsewhere or waits for it, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(program: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", f"tests.ray.{program}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.mark.timeout(300)
def test_a_stage_whose_node_is_lost_goes_on_elsewhere_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    found = run("node_lost", str(tmp_path))
    assert found["complete"]
    verdict = found["verdict"]
    assert verdict["acknowledged"] > 1_000
    assert (verdict["lost"], verdict["invented"], verdict["corrupted"], verdict["reordered"]) == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_node_has_a_lane_and_the_journal_of_a_lost_one_goes_on_when_it_comes_back(tmp_path: Path) -> None:
    found = run("per_node", str(tmp_path), "back")
    assert found["lanes"] == ["lane-1", "lane-2"]  # not the node without CPUs
    assert found["on its node"]
    assert found["journaled"] >= 40
    assert found["near"] == [0, 1]  # a sender uses the lane of its node
    assert not found["all well"]  # while the doors of other nodes were, so that a balancer goes on sending there
    assert found["complete"]
    check(found["verdict"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_stays_away_takes_nothing_from_the_lanes_of_others(tmp_path: Path) -> None:
    found = run("per_node", str(tmp_path), "gone")
    assert not found["complete"]
    assert found["stop"] < 20
    check(found["verdict"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lane_in_memory_is_forgotten_with_its_node(tmp_path: Path) -> None:
    found = run("per_node", str(tmp_path), "forgotten")
    assert found["well"]
    assert found["complete"]
    check(found["verdict"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_lanes_by_need_go_over_the_nodes_and_come_again_elsewhere_where_one_is_lost_or_drained(tmp_path: Path) -> None:
    found = run("spread", str(tmp_path))
    assert found["first"] == ["127.0.0.2"]
    assert found["third"] == "127.0.0.3"  # where there was none
    assert found["left"] == ["127.0.0.2"]
    assert found["scales"] == [0]
    assert found["complete"]
    check(found["verdict"], least=200)


def check(verdict: dict[str, Any], least: int = 1_000) -> None:
    assert verdict["acknowledged"] > least
    assert (verdict["lost"], verdict["invented"], verdict["corrupted"]) == (0, 0, 0)
