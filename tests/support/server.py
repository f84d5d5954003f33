"""A `polku` process for tests, with its two outputs in files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from tests.support.forked import Forked, fork

POLKU = [sys.executable, "-m", "polku"]
ON_BARE_RAY = [sys.executable, "-m", "tests.support.polku_on_bare_ray"]
"""The same command: a Ray that it starts takes a tenth of the processor time."""


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without POLKU's variables, and with the given ones."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POLKU_")}
    return {**clean, **variables}


def polku(
    *arguments: str, text: str | None = None, folder: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process of its own; a `folder` is where it runs."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write((text or "").encode())
        given.seek(0)
        files = [given.fileno(), out.fileno(), err.fileno()]
        process = fork(arguments, files, environment(**variables), folder)
        try:
            status = process.wait(240)
        finally:
            process.kill()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(["polku", *arguments], status, out.read().decode(), err.read().decode())


def polku_here(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process: one that ends before it starts anything, as at a wrong option."""
    from polku.cli import main

    out, err = io.StringIO(), io.StringIO()
    status: str | int | None = 0
    with (
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        mock.patch.object(sys, "argv", ["polku", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(["polku", *arguments], int(status or 0), out.getvalue(), err.getvalue())


class Server:
    """A running `polku serve` or `polku run`, once it said that it is ready; forked, or started with a `command`."""

    def __init__(self, folder: Path, *arguments: str, command: Sequence[str] = (), **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.process: Forked | subprocess.Popen[bytes]
        with self.out.open("wb") as out, self.err.open("wb") as err, open(os.devnull) as nothing:
            if command:
                started = [*command, *arguments]
                self.process = subprocess.Popen(started, stdout=out, stderr=err, env=environment(**variables))
            else:
                files = [nothing.fileno(), out.fileno(), err.fileno()]
                self.process = fork(arguments, files, environment(**variables))
        ready = self.wait_for(self.err, r"ready on grpc (\S+)(?: and http (\S+))?")
        self.address, self.http_address = ready[1], ready[2]

    def wait_for(self, file: Path, pattern: str, timeout: float = 120.0) -> re.Match[str]:
        """Return the match of a pattern in a file once there is one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = re.search(pattern, file.read_text())
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} did not come; standard error: {self.err.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(120)
