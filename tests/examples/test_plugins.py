"""Each example plugin, as the program that it is: checked, used by a pipeline, killed once, and used again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polku import Breaker, ExternalEmitter, ExternalIngestor, Hub, Resilience, Retry, new_event
from polku.testing import assert_plugin, check_plugin, plugin_process
from tests.external.test_ingest import Client, eventually
from tests.support.ports import free_port
from tests.support.recorder import Recorder
from tests.support.server import polku

ROOT = Path(__file__).parent.parent.parent
PLUGINS = ROOT / "examples" / "plugins"
SAMPLE = b"info hello\nerror oh no\n"
LONG = b"info " + b"hello " * 100 + b"\n"  # ten megabytes of it are few events, which a plugin has soon made


def need(tool: str, why: str) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed: {why}")


def python(name: str, work: Path) -> list[str]:
    return [sys.executable, str(PLUGINS / "python" / name)]


def go(name: str, work: Path) -> list[str]:
    need("go", "the example in Go cannot be built")
    return build_go(PLUGINS / "go", f"./{name}", work)


def build_go(module: Path, package: str, work: Path) -> list[str]:
    program = work / "go-plugin"
    environment = {**os.environ, "GOFLAGS": "-modcacherw"}
    built = subprocess.run(
        ["go", "build", "-o", program, package], cwd=module, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return [str(program)]


def node(name: str, work: Path) -> list[str]:
    need("node", "the example in Node cannot be run")
    need("npm", "the example in Node cannot be installed")
    folder = work / "node"
    shutil.copytree(PLUGINS / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm cannot install the example's two libraries: {installed.stderr[-300:]}")
    return ["env", f"PROTO={ROOT / 'proto'}", "node", str(folder / name)]


def rust(name: str, work: Path) -> list[str]:
    need("cargo", "the example in Rust cannot be built")
    folder = PLUGINS / "rust"
    target = Path(os.environ.get("CARGO_TARGET_DIR", folder / "target"))
    built = subprocess.run(["cargo", "build"], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return [str(target / "debug" / name)]


INGESTORS = {
    "python": (python, "ingestor/plugin.py"),
    "raw": (python, "raw/ingestor.py"),
    "go": (go, "ingestor"),
    "node": (node, "ingestor.js"),
    "rust": (rust, "polku-plugin-rust"),
}
SLOW = {"go", "node", "rust"}  # built from nothing, or installed
EMITTERS = {"python": (python, "emitter/plugin.py"), "raw": (python, "raw/emitter.py"), "go": (go, "emitter")}


def by_cost(names: Iterable[str]) -> list[Any]:
    """Return the names as parameters; those of programs that take long to build are for `make slow`."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


class Restartable:
    """A plugin program on one port, however often it is started."""

    def __init__(self, command: list[str], address: str, work: Path) -> None:
        self.command, self.address, self.work = command, address, work
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "POLKU_PLUGIN_ADDRESS": self.address, "ARCHIVE": str(self.work / "archive.log")}
        self.process = subprocess.Popen(self.command, cwd=self.work, env=environment, start_new_session=True)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(120)
            self.process = None

    def archived(self) -> list[str]:
        log = self.work / "archive.log"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Restartable]:
    program = Restartable([], f"127.0.0.1:{free_port()}", tmp_path)
    yield program
    program.kill()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", by_cost(INGESTORS))
def test_an_ingestor_is_used_killed_and_used_again(which: str, restartable: Restartable, tmp_path: Path) -> None:
    make, name = INGESTORS[which]
    restartable.command = make(name, tmp_path)
    with plugin_process(*restartable.command, cwd=tmp_path) as plugin:
        assert_plugin(plugin.address, sample=LONG)
    restartable.start()
    recorder = Recorder(tmp_path / "out")
    ingestor = ExternalIngestor("my-custom-source", restartable.address, health_interval=0.2)
    with Hub(runtime="inline").ingestor(ingestor).emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(pipeline)
        eventually(lambda: client.stream(SAMPLE)[0].event_ids)
        first = recorder.wait_for(2)
        assert [event.source for event in first] == ["my-custom-source"] * 2
        assert b"hello" in first[0].payload
        restartable.kill()
        (ack,) = client.stream(SAMPLE)
        assert [error.code for error in ack.errors] == ["UNAVAILABLE"]
        restartable.start()
        eventually(lambda: client.stream(SAMPLE)[0].event_ids)
        recorder.wait_for(4)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", by_cost(EMITTERS))
def test_an_emitter_is_used_killed_and_used_again(which: str, restartable: Restartable, tmp_path: Path) -> None:
    make, name = EMITTERS[which]
    restartable.command = make(name, tmp_path)
    restartable.start()
    external = ExternalEmitter("archive", restartable.address, health_interval=0.2)
    emitter = Resilience(external, retry=Retry(first=0.05, limit=0.2), breaker=Breaker(open_for=0.2))
    sent = 300
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        sender = pipeline.sender()
        assert sender.send(new_event("x", id="e0")).ok
        eventually(lambda: restartable.archived() == ["e0"])
        killing = threading.Timer(0.05, restartable.kill)
        killing.start()
        for number in range(1, sent):
            assert sender.send(new_event("x", id=f"e{number}")).ok
        killing.join()
        restartable.start()
        eventually(lambda: len(set(restartable.archived())) == sent)
    assert list(dict.fromkeys(restartable.archived())) == [f"e{number}" for number in range(sent)]


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ingestor", "emitter"])
def test_a_new_go_project_builds_and_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    need("go", "a new project in Go cannot be built")
    folder = tmp_path / "fresh-plugin"
    assert polku("plugin", "new", kind, str(folder), "--lang", "go").returncode == 0
    assert "module plugin.example/fresh-plugin" in (folder / "go.mod").read_text()
    command = build_go(folder, ".", tmp_path)
    with plugin_process(*command, cwd=tmp_path) as plugin:
        assert_plugin(plugin.address, sample=SAMPLE)
        print(check_plugin(plugin.address, sample=SAMPLE))
