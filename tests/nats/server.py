"""A real nats-server with JetStream for tests, with its data in a folder that survives its death."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.authority import Pair
from tests.support.ports import free_port

PROGRAM = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
needs_nats = pytest.mark.skipif(PROGRAM is None, reason="nats-server is not installed")
T = TypeVar("T")


class Server:
    """A server on a port of its own."""

    def __init__(
        self,
        *options: str,
        user: str = "",
        password: str = "",
        authority: Path | None = None,
        pair: Pair | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="polku-nats-"))
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._login: dict[str, Any] = {"user": user, "password": password} if user else {}
        if authority is not None and pair is not None:
            self.url = f"tls://localhost:{self.port}"
            files = {"cert": pair.cert, "key": pair.key, "cacert": authority}
            named = [f"--tls{name}={path}" for name, path in files.items()]
            options = ("--tls", "--tlsverify", *named, *options)
            context = ssl.create_default_context(cafile=authority)
            context.load_cert_chain(pair.cert, pair.key)
            self._login["tls"] = context
        self._options = (*options, *(("--user", user, "--pass", password) if user else ()))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until JetStream answers."""
        command = [str(PROGRAM), "--addr", "127.0.0.1", "--port", str(self.port), "--jetstream"]
        command += ["--store_dir", str(self.folder), *self._options]
        output = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=output, stderr=output)
        output.close()
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def do(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run a function of JetStream's API, from a thread without an event loop."""

        async def run() -> T:
            import nats

            client = await nats.connect(self.url, **self._login)
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(run())

    def kill(self) -> None:
        """Kill it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop_answering(self) -> None:
        """Have it do nothing, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """Have it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, and remove what it stored."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False

        async def ask(streams: Any) -> bool:
            await streams.account_info()
            return True

        try:
            return self.do(ask)
        except Exception:
            return False
