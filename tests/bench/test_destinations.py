"""The benchmark of destinations delivers what it measures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.destinations import CONTENDERS


@pytest.mark.parametrize(
    "name", [name if name == "webhook" else pytest.param(name, marks=pytest.mark.slow) for name in CONTENDERS]
)
def test_emitter_and_bare_client_deliver_everything(name: str) -> None:
    command = [sys.executable, "-m", "tests.bench.destinations", name, "--events", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"| {name} |")
