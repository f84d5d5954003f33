"""The plugin for pytest, as the tests of a user see it."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

PLUGIN = "polku.testing.pytest_plugin"
TESTS = """
import pytest
from polku import Deduplicator, Event, Filter, Hub, StdoutEmitter, new_event
from polku.testing import Pause

hub = Hub().middleware(Filter(lambda event: event.event_type != "noise")).emitter(StdoutEmitter(), name="audit")


def test_run(polku_run, polku_clock):
    outcome = polku_run(hub, [new_event("noise"), Pause(60), new_event("order", id="1")])
    assert outcome.ids("audit") == ["1"]
    assert polku_clock.seconds >= 60


@pytest.mark.polku("inline")
def test_pipeline(polku_pipeline, polku_sink, polku_runtime):
    pipeline = polku_pipeline(Hub().emitter(polku_sink.emitter()))
    assert pipeline.sender().send(new_event("order", id="1")).ok
    assert [event.id for event in polku_sink.wait_for(1)] == polku_sink.ids == ["1"]
    assert polku_runtime == "inline"


def test_oracle(polku_oracle, polku_run):
    oracle = polku_oracle("audit")
    events = oracle.events("sensor", 20)
    outcome = polku_run(hub, events)
    oracle.acknowledged(event.id for event in events)
    oracle.delivered("audit", outcome.delivered["audit"])


def test_an_oracle_complains(polku_oracle):
    oracle = polku_oracle("audit")
    oracle.acknowledged(event.id for event in oracle.events("sensor", 1))


def test_simulate(polku_simulate):
    assert len(polku_simulate(hub, seconds=5, seeds=[1, 2])) == 2


def test_no_events_came(polku_sink):
    with pytest.raises(AssertionError, match="0 of 1 events came within"):
        polku_sink.wait_for(1, timeout=0.01)
"""
ON_BOTH = """
import pytest
from polku import Hub, new_event


@pytest.mark.polku
def test_both(polku_pipeline, polku_sink, polku_runtime):
    pipeline = polku_pipeline(Hub(name=f"plugin-{polku_runtime}").emitter(polku_sink.emitter()))
    pipeline.sender().send([new_event("order", id=str(number)) for number in range(5)])
    polku_sink.wait_for(5)
    assert pipeline.plan.name == f"plugin-{polku_runtime}"
"""


def run_pytest(folder: Path, tests: str, *options: str) -> str:
    (folder / "test_it.py").write_text(tests)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "--strict-markers",
        "-W",
        "error",
        *options,
    ]
    command += [] if is_installed() else ["-p", PLUGIN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ, timeout=240)
    return done.stdout + done.stderr


def is_installed() -> bool:
    """Return whether the plugin is an entry point of what is installed, and not only of this tree."""
    return any(point.value == PLUGIN for point in importlib.metadata.entry_points(group="pytest11"))


def test_the_fixtures_do_what_they_say(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, TESTS, "-q")
    assert "6 passed, 1 error" in said, said
    assert "ERROR test_it.py::test_an_oracle_complains - AssertionError: 1 lost of 1" in said


def test_a_marked_test_runs_on_both_runtimes(tmp_path: Path, ray_session: None) -> None:
    said = run_pytest(tmp_path, ON_BOTH, "-v")
    assert "test_both[inline] PASSED" in said, said
    assert "test_both[ray] PASSED" in said
    assert "1 passed, 1 deselected" in run_pytest(tmp_path, ON_BOTH, "-m", "not polku_ray")


def test_a_runtime_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    tests = "import pytest\n@pytest.mark.polku('rya')\ndef test_it(polku_pipeline): pass\n"
    assert "@pytest.mark.polku('rya'): is no runtime; choose 'inline', 'ray', or both" in run_pytest(tmp_path, tests)


def test_it_is_light() -> None:
    code = f"import sys, pytest; before = set(sys.modules); import {PLUGIN}; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    loaded = [name for name in ast.literal_eval(done.stdout) if "editable" not in name]
    assert set(loaded) <= {"polku", "polku.lazy", "polku.version", "polku.testing", PLUGIN}


def test_it_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"polku": PLUGIN}


@pytest.mark.parametrize("fixture", ["polku_run", "polku_clock", "polku_pipeline", "polku_sink", "polku_oracle"])
def test_the_table_has_each_fixture(fixture: str) -> None:
    source = (ROOT / "polku" / "testing" / "pytest_plugin.py").read_text("utf-8")
    assert f"| `{fixture}` |" in source
