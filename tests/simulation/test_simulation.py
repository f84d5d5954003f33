"""A minute of the simulation with seeds that nobody has tried, and all cases that ever failed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from polku.testing.simulation.loop import SimulatedLoop
from tests.simulation.generate import generate
from tests.simulation.run import run

SECONDS = os.environ.get("POLKU_SIMULATE_SECONDS", "50")


@pytest.mark.timeout(300)
def test_no_promise_is_broken_in_a_minute_of_fresh_seeds() -> None:
    done = simulate("--seconds", SECONDS)
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"
    assert "deaths" in done.stdout, f"nothing died: {done.stdout}"


@pytest.mark.timeout(300)
def test_what_failed_once_is_right() -> None:
    done = simulate("--failed")
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"


def test_a_seed_is_always_the_same_case_with_the_same_end() -> None:
    for seed in (3, 7, 11):
        assert generate(seed) == generate(seed)
        results = [run(generate(seed)) for _ in range(2)]
        assert len({(r.steps, r.virtual, tuple(r.faults), tuple(r.counts.items())) for r in results}) == 1


def test_the_loop_jumps_to_the_next_timer() -> None:
    import asyncio
    from random import Random

    loop = SimulatedLoop(Random(1))
    start = loop.time()
    loop.run_until_complete(asyncio.sleep(3600))
    assert 3600 <= loop.time() - start < 3601
    loop.close()


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
