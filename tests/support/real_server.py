"""A program of somebody else's that serves tests: started, killed, stopped and started again on what it stored."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Generic, TypeVar

from tests.support.ports import free_port


class RealServer:
    """A server on a port of its own, with a folder that survives its death; `_command` starts it."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"polku-{name}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(self._command(), stdout=output, stderr=output)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it: what it confirmed is in its folder."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop_answering(self) -> None:
        """Have it do nothing, with its connections open; return once its last thread has stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def answer_again(self) -> None:
        """Have it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def has_unread(self, *states: str) -> bool:
        """Return whether bytes that it has not read lie in a socket of its port, as the kernel has it.

        States are those of `/proc/net/tcp`: `01` is a connection, which counts where none is named, `0A` one that waits
        to be accepted.
        """
        with open("/proc/net/tcp") as file:
            rows = [line.split() for line in file.read().splitlines()[1:]]
        own = [row for row in rows if row[1].endswith(f":{self.port:04X}") and row[3] in (states or ("01",))]
        return any(row[4].partition(":")[2] != "00000000" for row in own)

    def close(self) -> None:
        """Kill it, and remove what it stored."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


Started = TypeVar("Started", bound=RealServer)


class OnRealServer(Generic[Started]):
    """What starts a server of its own, kills it and starts it again: a destination or an origin of the suites."""

    def __init__(self) -> None:
        self._server: Started | None = None

    def first(self) -> Started:
        """Return a new server, with what the suite needs in it; called in a thread."""
        raise NotImplementedError

    @property
    def server(self) -> Started:
        """The server, once it was started."""
        assert self._server is not None
        return self._server

    async def start(self) -> None:
        """Start the server, or start it again."""
        if self._server is None:
            self._server = await asyncio.to_thread(self.first)
        else:
            await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        """End the server and what it has kept."""
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    async def kill(self) -> None:
        """Kill the server; what it has on disk stays."""
        await asyncio.to_thread(self.server.kill)

    async def hang(self) -> None:
        """Take nothing and confirm nothing: what comes lies in the socket of a process that is stopped."""
        self.server.stop_answering()

    async def resume(self) -> None:
        """Have the server go on."""
        self.server.answer_again()
