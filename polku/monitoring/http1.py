"""A small HTTP/1.1 server for a few readers: GET and HEAD, bounded in time, size and connections.

aiohttp would cost a gateway that serves gRPC alone 12 MB and a quarter of a second; this costs nothing until somebody
asks. It is for the admin address, not for the public: see `polku.gateway.http` for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from http import HTTPStatus

from msgspec import Struct

from polku.gateway.places import Places
from polku.log import RepeatedLog
from polku.text import line
from polku.usercode import is_ours

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_HEAD = 16 * 1024
_HEAD_SECONDS = 10.0  # for a whole request
_IDLE_SECONDS = 75.0  # between two: more than the minute that scrapers may wait
_WRITE_SECONDS = 30.0
_CONNECTIONS = 64
_MAKE_ROOM_SECONDS = 5.0  # idle for so long, a connection makes room for another one where all are taken
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Request(Struct, frozen=True):
    """A request: `path` without its query, `query` as it was written, `headers` by their names in small letters."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


class Response(Struct, frozen=True):
    """An answer; `headers` come on top of those that every answer has."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = {}


class Stream(Struct, frozen=True):
    """An answer that goes on until its pieces end; a reader that takes one for too long is left."""

    pieces: AsyncGenerator[bytes, None]
    content_type: str


Handler = Callable[[Request], Awaitable[Response | Stream]]


class _BadRequestError(Exception):
    pass


class _Connection:
    """One connection, as what takes a place: it is idle while its client sends no request, or reads no answer."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self.idle_since: float | None = time.monotonic()
        self.is_used = False

    def make_room(self, reason: str) -> None:
        self._task.cancel()


class Server:
    """Answer requests with a handler, which may raise anything: that is answered with 500."""

    def __init__(self, handler: Handler, posts: Collection[str] = ()) -> None:
        self._handler = handler
        self._posts = frozenset(("POST", path) for path in posts)
        self._connections: set[asyncio.Task[None]] = set()
        what = "connections of the admin address"
        self._places = Places(what, total=_CONNECTIONS, each=_CONNECTIONS, idle_seconds=_MAKE_ROOM_SECONDS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its client, or its time, is at an end."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        address, connection = _address_of(writer), _Connection(task)
        writer.transport.set_write_buffer_limits(0)  # what is written has left the process, or its time is over
        try:
            if self._places.enter(address, connection):
                await _write(writer, Response(503, b"too many connections\n"), head=False, keep=False)
            else:
                await self._serve(reader, writer, connection)
        except (TimeoutError, asyncio.CancelledError):
            writer.transport.abort()  # it is too slow, or makes room, or the server closes: nobody waits for this task
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone
        finally:
            self._places.leave(address, connection)
            self._connections.discard(task)
            writer.close()

    def close(self) -> None:
        """End all connections."""
        for connection in self._connections:
            connection.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection) -> None:
        keep = True
        while keep:
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    first = await reader.readexactly(1)
                async with asyncio.timeout(_HEAD_SECONDS):
                    head = first + await reader.readuntil(b"\r\n\r\n")
                request = _parse(head)
            except (asyncio.LimitOverrunError, _BadRequestError) as error:
                await _write(writer, Response(400, f"{line(error)}\n".encode()), head=False, keep=False)
                return
            keep = request.headers.get("connection", "").lower() != "close"
            if "content-length" in request.headers or "transfer-encoding" in request.headers:
                keep = False  # its body is not read
            connection.idle_since, connection.is_used = None, True
            answer = await self._answer(request)
            if isinstance(answer, Stream):
                await _write_stream(writer, answer, head=request.method == "HEAD")
                return
            connection.idle_since = time.monotonic()
            await _write(writer, answer, head=request.method == "HEAD", keep=keep)
            await asyncio.sleep(0)  # others have their turn, however many requests came at once

    async def _answer(self, request: Request) -> Response | Stream:
        if request.method not in ("GET", "HEAD") and (request.method, request.path) not in self._posts:
            return Response(405, b"there are GET and HEAD\n", headers={"Allow": "GET, HEAD"})
        try:
            return await self._handler(request)
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("failed", "admin address: %s failed", line(request.path))
            return Response(500, f"{type(error).__name__}\n".encode())


def _address_of(writer: asyncio.StreamWriter) -> str:
    name = writer.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


async def _write(writer: asyncio.StreamWriter, response: Response, *, head: bool, keep: bool) -> None:
    fields = {"Content-Length": str(len(response.body)), **response.headers}
    start = _head(response.status, response.content_type, fields, keep=keep)
    await _send(writer, start + (b"" if head else response.body))


async def _write_stream(writer: asyncio.StreamWriter, stream: Stream, *, head: bool) -> None:
    """Write pieces as they come, to the end of the connection."""
    async with contextlib.aclosing(stream.pieces) as pieces:
        await _send(writer, _head(200, stream.content_type, {}, keep=False))
        if head:
            return
        async for piece in pieces:
            await _send(writer, piece)


def _head(status: int, content_type: str, headers: Mapping[str, str], *, keep: bool) -> bytes:
    connection = "keep-alive" if keep else "close"
    fields = {"Content-Type": content_type, **_HEADERS, **headers, "Connection": connection}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(_WRITE_SECONDS):
        await writer.drain()


def _parse(head: bytes) -> Request:
    """Return the request of a head that ends in an empty line; raises `_BadRequestError`."""
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0") or not words[1].startswith("/"):
        raise _BadRequestError("this is no request of HTTP/1.1")
    headers: dict[str, str] = {}
    for text in lines:
        name, colon, value = text.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip() or "\n" in text or "\r" in text or "\0" in text:
            raise _BadRequestError("a header is malformed")
        if key in headers and key in ("host", "content-length", "authorization", "origin"):
            raise _BadRequestError(f"there are two headers {key}")
        headers[key] = value.strip()
    if words[2] == "HTTP/1.0":
        headers.setdefault("connection", "close")
    elif "host" not in headers:
        raise _BadRequestError("the header Host is missing")
    path, _, query = words[1].partition("?")
    from urllib.parse import unquote  # by the first request: a gateway is ready sooner

    return Request(words[0], unquote(path), query, headers)


LIMIT = _HEAD
"""The bytes that a request may have."""
