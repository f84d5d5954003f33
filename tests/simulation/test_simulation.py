"""A short run of the simulation with seeds that nobody has tried, and all cases that ever failed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from polku.testing.simulation.loop import SimulatedLoop
from tests.simulation import many
from tests.simulation.generate import generate
from tests.simulation.run import Result, run

CPU = 240.0  # seconds of computing in which each run ends
STILL = 60.0  # seconds of the clock in which a run computes for a thousandth of them, on any machine


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", ["3", pytest.param("60", marks=pytest.mark.slow)])
def test_no_promise_is_broken_with_fresh_seeds(seconds: str) -> None:
    done = simulate("--seconds", seconds)
    assert done.returncode == 0, f"\n{done.stderr}\n{done.stdout}"
    cases = int(done.stdout.partition(" ")[0])
    assert "deaths" in done.stdout or cases < 100, f"nothing died: {done.stdout}"


@pytest.mark.timeout(1200)
def test_what_failed_once_is_right() -> None:
    done = simulate("--failed")
    assert done.returncode == 0, f"\n{done.stderr}\n{done.stdout}"


def test_a_seed_is_always_the_same_case_with_the_same_end() -> None:
    for seed in (3, 7, 11):
        assert generate(seed) == generate(seed)
        results = [run(generate(seed)) for _ in range(2)]
        assert len({(r.steps, r.virtual, tuple(r.faults), tuple(r.counts.items())) for r in results}) == 1


def test_no_thread_runs_in_a_case_whose_turn_the_loop_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    start = threading.Thread.start

    def noted(self: threading.Thread) -> None:
        begun.append(self.name)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", noted)
    shapes = {"inline": 0, "actors": 0}
    for seed in range(100):
        case = generate(seed)
        shapes[case["shape"]] += 1
        if shapes[case["shape"]] <= 5:
            run(case)
    assert min(shapes.values()) >= 5
    assert set(begun) <= {"simulated"}


def test_the_loop_jumps_to_the_next_timer() -> None:
    import asyncio
    from random import Random

    loop = SimulatedLoop(Random(1))
    start = loop.time()
    loop.run_until_complete(asyncio.sleep(3600))
    assert 3600 <= loop.time() - start < 3601
    loop.close()


def test_tasks_that_never_run_again_end_without_another_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    from random import Random

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.gather()  # of nothing: that asks for the event loop, and makes one where there is none

    loop = SimulatedLoop(Random(1))
    loop.create_task(work())
    loop.run_until_complete(asyncio.sleep(1))
    made: list[str] = []
    monkeypatch.setattr(asyncio.DefaultEventLoopPolicy, "get_event_loop", lambda self: made.append("a loop"))
    loop.bury()
    loop.close()
    assert not made
    assert asyncio._get_running_loop() is None


def test_a_thread_that_sleeps_beside_it_does_not_move_the_time_of_a_world() -> None:
    from polku.testing.simulation.world import World

    with World(1) as world:
        began = world.loop.time()
        other = threading.Thread(target=lambda: time.sleep(0.01))
        other.start()
        other.join(30)
        assert not other.is_alive()
        assert world.loop.time() == began
        time.sleep(7)
        assert world.loop.time() == began + 7


def test_a_case_that_breaks_a_promise_is_printed_with_all_that_it_takes_to_run_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(case: dict[str, Any]) -> Result:
        return Result(case, ["lost: one", "order: two"], 0.0, 0.0, 0)

    monkeypatch.setattr(many, "run", broken)
    monkeypatch.setattr(many, "shrink", lambda case, kind, seconds: {**case, "faults": []})
    options = argparse.Namespace(seeds="5-7", seconds=0.0, jobs=1, shrink=1.0)
    assert many.run_many(options, frozenset()) == 1
    said = capsys.readouterr().out
    assert said.startswith("# code ")
    assert f"Python {platform.python_version()} on" in said
    assert "SQLite" in said
    for seed in (5, 6, 7):
        assert f"--seed {seed}  # lost: one\n" in said
        assert f"--seed {seed}  # order: two\n" in said
    cases = [json.loads(line.split("'", 1)[1][:-1]) for line in said.splitlines() if "--case" in line]
    small = [{**generate(seed), "faults": []} for seed in (5, 6)]
    assert cases == [*small, generate(7)], "of each kind the first two are made smaller"


def test_a_case_that_does_not_fail_again_names_the_cases_before_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    many._spare()
    faults = [[], ["lost: one"], []]  # of seed 41 when it is run again, and before, and of seed 40
    monkeypatch.setattr(many, "run", lambda case: Result(case, faults.pop(), 0.0, 0.0, 0))
    monkeypatch.setattr(many, "_ran", [])
    assert many.run_many(argparse.Namespace(seeds="40-41", seconds=0.0, jobs=1, shrink=1.0), frozenset()) == 1
    said = capsys.readouterr().out
    assert "not so when it was run again: python -m tests.simulation --seeds 40-41" in said
    assert json.dumps(generate(41)) in said


def test_a_run_ends_with_the_case_in_which_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(case: dict[str, Any]) -> Result:
        time.sleep(0.05)
        return Result(case, [], 0.0, 0.0, 0)

    monkeypatch.setattr(many, "run", slow)
    assert many.run_seeds(range(20), frozenset(), time.perf_counter() + 0.12).cases <= 3


def test_a_case_that_computes_without_end_is_named() -> None:
    code = """
        from tests.simulation import many

        def endless(case):
            while case["seed"]:
                pass

        many.CPU_SECONDS, many.run = 0.5, endless
        many.run_seeds([1234], frozenset())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "endless: a case computes for 0.5 s" in done.stdout
    assert """--case '{"seed": 1234,""" in done.stdout
    assert "in endless" in done.stdout


def test_a_run_that_stands_still_is_stopped_and_one_that_is_slow_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/simulation.py").write_text(
        "import sys, time\nprint('it began', flush=True)\nend = time.monotonic() + 3.5\n"
        "while sys.argv[1] == 'slow' and time.monotonic() < end:\n    sum(range(1_000_000))\n    time.sleep(0.1)\n"
        "if sys.argv[1] == 'still':\n    time.sleep(600)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(globals(), "STILL", 1.5)
    assert simulate("slow").returncode == 0
    with pytest.raises(pytest.fail.Exception, match=r"(?s)no end after .*simulation.py.*it began"):
        simulate("still")


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulation, however slow the machine is; what stands still, or has no end, is stopped and says where."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.simulation", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        latest = 0.0
        while True:
            try:
                said, errors = child.communicate(timeout=STILL)
                return subprocess.CompletedProcess(command, child.returncode, said, errors)
            except subprocess.TimeoutExpired:
                used = cpu_seconds(child.pid)
            if used > CPU or used - latest < STILL / 1000:
                child.send_signal(signal.SIGABRT)  # it prints where it is
                said, errors = child.communicate()
                pytest.fail(f"no end after {used:.0f} s of CPU time; until then:\n{errors}\n{said}")
            latest = used


def cpu_seconds(pid: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
