"""Plugin processes for tests: started, killed, started again on the same port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

HERE = Path(__file__).parent


class Program:
    """A program that prints `listening on PORT` when it serves; its output is in a file."""

    def __init__(self, command: Sequence[str], log: Path, cwd: Path | None = None, **environment: str) -> None:
        self.command, self.log, self.cwd = list(command), log, cwd
        self.environment = {**os.environ, **environment}
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self.log.read_text()

    def start(self) -> None:
        """Start it, again on the port that it had."""
        with self.log.open("ab") as log:
            before = log.tell()
            own = {"PORT": str(self.port), "POLKU_PLUGIN_ADDRESS": f"127.0.0.1:{self.port}"}
            environment = {**own, **self.environment, "PORT": str(self.port)}
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment, cwd=self.cwd, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while not (found := re.search(rb"listening on (?:\S*:)?(\d+)\b", self.log.read_bytes()[before:])):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        self.port = int(found[1])

    def kill(self, number: int = signal.SIGKILL) -> None:
        process, self.process = self.process, None
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, number)
            process.wait(120)


@contextmanager
def program(log: Path, *command: str, cwd: Path | None = None, **environment: str) -> Iterator[Program]:
    """Run a program for the length of a block."""
    running = Program(command, log, cwd, **environment)
    running.start()
    try:
        yield running
    finally:
        running.kill()


def raw(folder: Path, kind: str, **environment: str) -> AbstractContextManager[Program]:
    """Run one of the raw programs beside this file."""
    return program(folder / f"{kind}.log", sys.executable, str(HERE / f"raw_{kind}.py"), cwd=None, **environment)
