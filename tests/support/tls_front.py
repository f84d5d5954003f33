"""TLS in front of a server that has none: it asks for certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from tests.support.authority import Authority, Pair

T = TypeVar("T")


class TlsFront:
    """Listen on a port of its own; `shown` are the names in the certificates of those who came, in order."""

    def __init__(self, behind: int, authority: Authority, pair: Pair) -> None:
        self.shown: list[str] = []
        self.behind = behind
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.cert))
        self._tls.load_cert_chain(pair.cert, pair.key)
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)).result(30)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """End it, and all connections."""
        self._call(self._end()).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        self.shown.append(dict(pair for (pair,) in certificate["subject"])["commonName"])
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self.behind)
        ways = pump(reader, behind_writer), self.answers(behind_reader, writer)
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for one in (writer, behind_writer):
                one.close()
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the server says."""
        await pump(reader, writer)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, until nothing does."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
