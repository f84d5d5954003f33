"""TLS with certificates of one's own for a client that has none: a proxy on the loopback interface, for it alone.

The library that speaks to object stores shows no certificate and reads no file again. It sends its requests in plain
text to a port of this process, with a password that is new each time; from there each goes on a connection of its own,
encrypted, with the certificates as their files are then, to the one server that the proxy is for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from polku.aio.loops import new_event_loop
from polku.aio.tasks import TaskSet
from polku.rpc.proxy import open_tunnel, proxy_for
from polku.security.client_tls import ClientTls
from polku.text import line

_HEAD = 64 << 10  # bytes of a request's head
_CHUNK = 256 << 10
_SECONDS = 5.0  # to connect; and to take what is left of a request that was answered early
_END = b"\r\n\r\n"
_HOP = (b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection")


class TlsForwarder:
    """Forward requests to the server of an `https://` address; `url` is the proxy's, `close` ends it."""

    def __init__(self, server: str, tls: ClientTls) -> None:
        parts = urlsplit(server)
        self._authority = parts.netloc
        self._host, self._port = str(parts.hostname), parts.port or 443
        self._tls = tls
        password = secrets.token_hex(16)
        self._credentials = b"Basic " + base64.b64encode(f"polku:{password}".encode())
        self._loop = new_event_loop()
        self._tasks = TaskSet("TlsForwarder")
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="polku-tls-forwarder", daemon=True)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://polku:{password}@127.0.0.1:{listening.getsockname()[1]}"
        self._listening = listening
        self._thread.start()

    def close(self) -> None:
        """Break off what is in flight, and release the port."""
        with contextlib.suppress(RuntimeError):  # it was closed before
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_SECONDS)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listening, limit=_HEAD)
        await self._ended.wait()
        server.close()
        await self._tasks.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.start("request", self._forward(reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                head = self._head(await reader.readuntil(_END))
                if head is None:
                    return await _answer(reader, writer, b"403 Forbidden", "this proxy has one client and one server")
                try:
                    far_reader, far_writer = await self._connect()
                except OSError as error:
                    return await _answer(reader, writer, b"502 Bad Gateway", f"{self._authority}: {line(error)}")
                async with _closing(far_writer):
                    far_writer.write(head)
                    sending = self._tasks.start("body", _send(reader, far_writer))
                    try:
                        await _pump(far_reader, writer)
                    finally:
                        sending.cancel()
                        await asyncio.gather(sending, return_exceptions=True)
        return None

    def _head(self, head: bytes) -> bytes | None:
        """Return the head of a request as the server gets it; None where it is not for it, or from somebody else."""
        first, *fields = head.removesuffix(_END).split(b"\r\n")
        method, _, rest = first.partition(b" ")
        target, _, version = rest.partition(b" ")
        prefix = b"http://" + self._authority.encode()
        names = [(field.partition(b":")[0].strip().lower(), field) for field in fields]
        shown = next((field.partition(b":")[2].strip() for name, field in names if name == _HOP[2]), b"")
        path = target.removeprefix(prefix)
        if path == target or path[:1] not in (b"/", b"?", b"") or not hmac.compare_digest(shown, self._credentials):
            return None
        kept = [field for name, field in names if name not in _HOP]
        start = method + b" " + (path if path.startswith(b"/") else b"/" + path) + b" " + version
        return b"\r\n".join([start, *kept, b"Connection: close"]) + _END

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the server; raises `OSError`."""
        tls = self._tls.context()
        try:
            proxy = proxy_for(self._host, self._port, tls=True)
        except ValueError as error:
            raise ConnectionError(str(error)) from None
        async with asyncio.timeout(_SECONDS):
            if proxy is None:
                return await asyncio.open_connection(self._host, self._port, ssl=tls)
            tunnel = await open_tunnel(proxy, self._host, self._port)
            return await asyncio.open_connection(sock=tunnel, ssl=tls, server_hostname=self._host)


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what is left of a request; where the server takes no more, its answer says why."""
    with contextlib.suppress(OSError):
        await _pump(reader, writer)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: bytes, text: str) -> None:
    """Answer in place of the server, and take what is still sent: a connection that is reset would lose the answer."""
    body = text.encode()
    writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
    await writer.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            while await reader.read(_CHUNK):
                pass
