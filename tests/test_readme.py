"""Every code block of the README runs as it is printed, in order, as a newcomer would run it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SERVERS = ("make run", "polku run ")
BENCHMARK = "tests.bench"


class Block(NamedTuple):
    """One fenced block: its language and its text."""

    language: str
    text: str


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text()
    return [Block(language, body) for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)]


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Terminal:
    """Run blocks; a server goes on in the background until the next one, or the end."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.out = work / "server.out"
        self.server: subprocess.Popen[bytes] | None = None
        own = Path(sys.executable).parent
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POLKU_")}
        self.environment = {**clean, "PATH": f"{own}{os.pathsep}{os.environ['PATH']}"}

    def run(self, block: Block) -> str:
        if block.language == "python":
            name = re.match(r"# (\w+\.py)\n", block.text)
            assert name, "a Python block begins with the name of its file"
            (self.work / name[1]).write_text(block.text)
            return ""
        if block.text.startswith(SERVERS):
            self.serve(block.text)
            return ""
        here = ROOT if ".venv" in block.text else self.work
        done = subprocess.run(
            ["bash", "-ec", block.text], cwd=here, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, command: str) -> None:
        self.stop()
        here = ROOT if command.startswith("make") else self.work
        with self.out.open("wb") as out:
            self.server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=here,
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.wait_for("polku: ready")

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 90
        while text not in (shown := self.out.read_text()):
            assert self.server is not None
            assert self.server.poll() is None, shown
            assert time.monotonic() < deadline, shown
            time.sleep(0.02)

    def stop(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(60)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.stop()


@pytest.mark.timeout(300)
def test_every_block_runs_as_printed(terminal: Terminal) -> None:
    if not free(50051):
        pytest.skip("port 50051, which the README uses, is taken")
    assert Path(sys.executable).parent == ROOT / ".venv" / "bin", "run the tests with the project's own .venv"
    shown: dict[str, str] = {}
    for block in blocks():
        if block.language == "text":
            continue
        if block.text == "make test\n" or BENCHMARK in block.text:
            continue  # this is it; and benchmarks are tested on their own
        if block.text.startswith("grpcurl") and not shutil.which("grpcurl"):
            continue
        shown[block.text.splitlines()[0]] = terminal.run(block)
        if "polku send" in block.text and ".venv" in block.text:
            terminal.wait_for('"event_type":"user.login"')
    assert "k8s.pod.created" not in shown
    assert "flowchart LR" in shown["polku validate pipeline.py"]
    assert "user.admin.created" in shown["polku send --to 127.0.0.1:50052 --type user.admin.created"]
    (posted,) = [text for first, text in shown.items() if first.startswith("curl ")]
    assert '"errors":[]' in posted
    assert "noise" not in terminal.out.read_text()
    assert "['order.paid']" in shown["python library.py"]
    assert "delivered ['order.paid']" in shown["python durable.py"]
    assert "1 journaled" in shown["python durable.py"]
    assert "partner" in shown["python durable.py"]
    assert shown["python graph.py"] == "pod.created web-0 node-2\n"
    assert "1 passed" in shown["pytest -q test_archive.py"]
    assert "[True, True, True]\n3\n" in shown["python application.py"]
