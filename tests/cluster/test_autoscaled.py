"""Ray's own autoscaler adds nodes for what a pipeline asks for, and drains and removes them when it needs less."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.autoscaled import NEEDS
from tests.cluster.hosts import hosts, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "POLKU_LOG_LEVEL": "info",
}


def autoscaled(folder: Path, shape: str) -> dict[str, Any]:
    """Return what became of a pipeline on a cluster of its own."""
    log = folder / "log"
    with hosts(1, folder) as [host]:
        command = [sys.executable, "-m", "tests.cluster.autoscaled", "/mnt/data", shape]
        code = host.start(*command, log=log, **_ENVIRONMENT).wait(540)
    said = log.read_text()
    assert code == 0, said[-4000:]
    found: dict[str, Any] = json.loads(next(line for line in said.splitlines() if line.startswith('{"before"')))
    return found


@pytest.mark.parametrize("shape", list(NEEDS))
def test_nodes_come_for_what_a_pipeline_needs_and_go_again_and_nothing_is_lost(shape: str, tmp_path: Path) -> None:
    found = autoscaled(tmp_path, shape)
    assert found["before"] == []
    assert len(found["first"]) == 1  # the start has waited for it
    assert len(found["grown"]) == 1 if shape == "labels alone" else len(found["grown"]) >= 2
    wanted = "gpus" if "GPU" in shape else "labelled" if "label" in shape else "shelves"
    assert found["types"] == [wanted]  # of three types that there are
    assert ("127.0.0.10" in found["lanes"]) == (shape == "lanes")  # the second one, as the first one has the head
    assert found["failures"] == [0]
    assert not found["loss"]
    verdict = found["verdict"]
    assert verdict["acknowledged"] > 80
    assert (verdict["lost"], verdict["invented"], verdict["corrupted"], verdict["reordered"]) == (0, 0, 0, 0)
