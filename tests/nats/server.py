"""A real nats-server with JetStream for tests, with its data in a folder that survives its death."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.authority import Pair
from tests.support.real_server import RealServer

PROGRAM = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
needs_nats = pytest.mark.skipif(PROGRAM is None, reason="nats-server is not installed")
T = TypeVar("T")


class Server(RealServer):
    """A server on a port of its own."""

    def __init__(
        self,
        *options: str,
        user: str = "",
        password: str = "",
        authority: Path | None = None,
        pair: Pair | None = None,
    ) -> None:
        super().__init__("nats")
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
        self.start()

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

    def _command(self) -> list[str]:
        command = [str(PROGRAM), "--addr", "127.0.0.1", "--port", str(self.port), "--jetstream"]
        return [*command, "--store_dir", str(self.folder), *self._options]

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
