"""A terminal in which the blocks of one page run, in order, as a newcomer would run them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.docs.forked_commands import Commands
from tests.docs.pages import ROOT, Block
from tests.support.ports import free_port

_SERVER = re.compile(r"(?:[A-Z_]+=\S+ )*(?:make run|polku run |polku serve$|python lines\.py)", re.M)
_FILE = re.compile(r"# ([\w-]+\.py)\n")
_ADDRESS = re.compile(r"(127\.0\.0\.1|0\.0\.0\.0|localhost):([1-9]\d{3,4})\b")
_READY = ("polku: ready", "listening on")
_DEFAULT = 50051


class Terminal:
    """Run blocks; a server continues in the background until the page ends.

    Ports that a page names are exchanged for free ones, so that pages can run side by side; the one that `polku` uses
    where nothing is said stays.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.servers: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._ports: dict[str, int] = {}
        own = Path(sys.executable).parent
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POLKU_")}
        if not any(point.name == "polku" for point in importlib.metadata.entry_points(group="pytest11")):
            clean["PYTEST_PLUGINS"] = "polku.testing.pytest_plugin"  # what is installed is older than this tree
        self._commands = Commands()
        self.environment = {
            **clean,
            "PATH": os.pathsep.join([str(self._commands.folder), str(own), os.environ["PATH"]]),
        }

    def run(self, block: Block) -> None:
        """Run a block; raises `AssertionError` where it fails or prints something else than the page says."""
        text = _ADDRESS.sub(self._address, block.text)
        if block.language == "python":
            name = _FILE.match(text)
            assert name, "a Python block begins with the name of its file: `# name.py`"
            (self.work / name[1]).write_text(text, "utf-8")
        elif _SERVER.match(text):
            self._serve(text, block.output)
        else:
            expect(block.output, self._call(text))
        if block.served:
            self._wait_for(block.served)

    def stop(self) -> None:
        """Stop the servers, the latest first; raises `AssertionError` where one ends with another status than 0."""
        try:
            self._stop_servers()
        finally:
            self._commands.close()

    def _stop_servers(self) -> None:
        failed = []
        while self.servers:
            server, out = self.servers.pop()
            os.killpg(server.pid, signal.SIGINT)
            status = server.wait(120)
            # make may end by the signal itself: then the last line of the gateway tells how that has ended.
            if status != 0 and not (status == -signal.SIGINT and "polku: stopped" in out.read_text()):
                failed.append(f"status {server.returncode}: {out.read_text()}")
        assert not failed, failed

    def _call(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", text],
            cwd=self._folder(text),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def _serve(self, text: str, output: str) -> None:
        out = self.work / f"server-{len(self.servers)}.out"
        with out.open("wb") as file:
            server = subprocess.Popen(
                ["bash", "-c", f"exec env {_own_make(text)}"],
                cwd=self._folder(text),
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.servers.append((server, out))
        deadline = time.monotonic() + 90
        while not any(sign in out.read_text() for sign in _READY):
            assert server.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.02)
        expect(output, out.read_text())

    def _wait_for(self, output: str) -> None:
        """Return once the latest server has printed some lines."""
        _, out = self.servers[-1]
        deadline = time.monotonic() + 30
        while True:
            try:
                return expect(output, out.read_text())
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _folder(self, text: str) -> Path:
        return ROOT if re.search(r"(?<![\w/])\.venv/", text) or text.startswith("make ") else self.work

    def _address(self, found: re.Match[str]) -> str:
        host, port = found.groups()
        if int(port) == _DEFAULT:
            return found[0]
        return f"{host}:{self._ports.setdefault(port, free_port())}"


def expect(output: str, shown: str) -> None:
    """Raise `AssertionError` where the lines of `output` are not among the lines of `shown`, in their order.

    `…` stands for anything, and one space for any number of them.
    """
    at = 0
    for line in output.splitlines():
        parts = [r"\s+".join(re.escape(word) for word in part.split(" ")) for part in line.strip().split("…")]
        pattern = ".*".join(parts)
        found = re.compile(rf"^\s*{pattern}[ \t]*$", re.M).search(shown, at)
        assert found, f"{line!r} is not in what was printed, or not in this place:\n{shown}"
        at = found.end()


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _own_make(command: str) -> str:
    """Return what `make run` comes to where `.venv` is a link to another tree's, which `make` would set up again."""
    linked = (ROOT / ".venv").is_symlink()
    return command.replace("make run", ".venv/bin/polku serve") if linked else command
