"""TLS in front of the mock broker, which has none: it asks for certificates, and names itself as the broker."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from tests.support.authority import Authority, Pair

T = TypeVar("T")
_HOST = b"127.0.0.1"


class TlsFront:
    """Listen on a port of its own; `shown` are the names in the certificates of those who came, in order."""

    def __init__(self, bootstrap: str, authority: Authority, pair: Pair) -> None:
        self.shown: list[str] = []
        self._behind = int(bootstrap.rpartition(":")[2])
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.cert))
        self._tls.load_cert_chain(pair.cert, pair.key)
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)).result(30)
        self._port: int = self._server.sockets[0].getsockname()[1]
        self.bootstrap = f"127.0.0.1:{self._port}"

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
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        ways = self._requests(reader, behind_writer), self._answers(behind_reader, writer)
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

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass answers on, with this port instead of the broker's in the addresses that they name."""
        theirs, ours = (_HOST + struct.pack(">i", port) for port in (self._behind, self._port))
        while True:
            try:
                head = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(head, "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            writer.write(head + body.replace(theirs, ours))
            await writer.drain()
