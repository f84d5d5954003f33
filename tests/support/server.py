"""A `polku` process for tests, with its two outputs in files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

POLKU = [sys.executable, "-m", "polku"]
ON_BARE_RAY = [sys.executable, "-m", "tests.support.polku_on_bare_ray"]
"""The same command: a Ray that it starts takes a tenth of the processor time."""


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without POLKU's variables, and with the given ones."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POLKU_")}
    return {**clean, **variables}


def polku(*arguments: str, text: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*POLKU, *arguments], input=text, capture_output=True, text=True, timeout=240, env=environment(**variables)
    )


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
    """A running `polku serve` or `polku run`, once it said that it is ready."""

    def __init__(self, folder: Path, *arguments: str, command: Sequence[str] = POLKU, **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=out, stderr=err, env=environment(**variables)
            )
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
