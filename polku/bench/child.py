"""The processes of a measurement: each is asked in lines, and answers in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import IO, Any

from polku.errors import PolkuError

_STOP_SECONDS = 60.0


class BenchError(PolkuError):
    """Say which process of a measurement failed, its exit status, and what it printed."""

    def __init__(self, process: str, status: int, said: str) -> None:
        super().__init__(process, status, said)
        self.process = process
        self.status = status
        self.said = said

    def __str__(self) -> str:
        return self.said if self.status == 2 else f"the {self.process} ended with status {self.status}: {self.said}"


class Child:
    """A process that answers in lines of JSON; what it writes to standard error is shown where it fails."""

    def __init__(self, name: str, module: str, order: dict[str, Any], *, answers: bool = False, **env: str) -> None:
        self._name = name
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        readable = None
        descriptors: tuple[int, ...] = ()
        if answers:
            readable, writable = os.pipe()
            descriptors = (writable,)
            order = {**order, "answers": writable}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if answers else subprocess.PIPE,
            stderr=self._errors,
            pass_fds=descriptors,
            env={**os.environ, **env},
            text=True,
        )
        for descriptor in descriptors:
            os.close(descriptor)
        self._answers: IO[str] = os.fdopen(readable) if readable is not None else self._process.stdout  # type: ignore[assignment]
        self.port = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS if error[0] is None else 10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._answers, self._errors):
            if stream is not None:
                stream.close()

    def read(self) -> dict[str, Any]:
        """Return the next line; raises `BenchError` where the process has ended instead."""
        line = self._answers.readline()
        if not line:
            self._process.wait(_STOP_SECONDS)
            self._errors.seek(0)
            said = self._errors.read().strip()[-4000:]
            raise BenchError(self._name, self._process.returncode, said)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def write(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `read` says why

    def ask(self, line: str) -> dict[str, Any]:
        """Send it a line and return the answer."""
        self.write(line)
        return self.read()

    def stop(self) -> dict[str, Any]:
        """Ask it to drain, wait for its end, and return its last word."""
        self._process.terminate()
        last = self.read()
        self._process.wait(_STOP_SECONDS)
        return last
