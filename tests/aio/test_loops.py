"""Which event loop a pipeline runs on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polku.aio.loops import new_event_loop
from polku.cli.settings import unknown_variables
from polku.errors import SettingError

needs_uvloop = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")

PIPELINE = """
import asyncio
from polku import Hub, new_event

async def say(event):
    print(type(asyncio.get_running_loop()).__module__)

with Hub(runtime="inline").middleware(say).emitter(lambda events: None).start() as pipeline:
    pipeline.sender().send(new_event("user.login"))
"""


def module_of_new_loop() -> str:
    loop = new_event_loop()
    loop.close()
    return type(loop).__module__


@needs_uvloop
@pytest.mark.parametrize(
    ("wanted", "module"), [("", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio.unix_events")]
)
def test_a_pipeline_runs_on_the_loop_that_is_asked_for(wanted: str, module: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PIPELINE)
    environment = {**os.environ, "POLKU_LOOP": wanted, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == [module], done.stderr


def test_serve_knows_the_variable_and_names_the_loops() -> None:
    assert unknown_variables({"POLKU_LOOP": "asyncio"}) == []
    settings = {"POLKU_LOOP": "trio", "POLKU_RUNTIME": "inline", "POLKU_GRPC_ADDR": "127.0.0.1:0"}
    command = [sys.executable, "-m", "polku", "serve"]
    refused = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=240)
    sentence = "polku: POLKU_LOOP='trio': choose one of uvloop, asyncio\n"
    assert (refused.returncode, refused.stderr) == (2, sentence)


def test_a_program_with_another_loop_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PIPELINE)
    environment = {**os.environ, "POLKU_LOOP": "trio", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "POLKU_LOOP='trio': is no event loop; known are uvloop and asyncio" in done.stderr
    assert "never awaited" not in done.stderr


def test_without_uvloop_it_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLKU_LOOP", raising=False)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert module_of_new_loop().startswith("asyncio.")
    monkeypatch.setenv("POLKU_LOOP", "uvloop")
    with pytest.raises(SettingError, match=r"POLKU_LOOP='uvloop': needs the extra `fast`"):
        new_event_loop()


def test_another_loop_is_refused_with_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_LOOP", "trio")
    with pytest.raises(SettingError, match=r"POLKU_LOOP='trio': is no event loop; known are uvloop and asyncio"):
        new_event_loop()
