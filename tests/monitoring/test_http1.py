"""The small server of the admin address, and clients that are silent, slow or in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from polku.gateway import places
from polku.monitoring import http1
from polku.monitoring.http1 import Request, Response, Server

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(body: bytes) -> AsyncIterator[tuple[Server, int]]:
    async def answer(request: Request) -> Response:
        return Response(200, body)

    http = Server(answer)
    server = await asyncio.start_server(http.serve, "127.0.0.1", 0, limit=http1.LIMIT)
    try:
        yield http, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        http.close()
        if http._connections:
            await asyncio.wait(http._connections)
        await asyncio.sleep(0)


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_silent_connections_make_room_for_one_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_CONNECTIONS", 4)
    monkeypatch.setattr(places, "_UNUSED_SECONDS", 0.0)
    async with serving(b"ok\n") as (_, port), contextlib.AsyncExitStack() as silent:
        for _ in range(4):
            await silent.enter_async_context(client(port))
        async with client(port) as (reader, writer):
            writer.write(ASK)
            async with asyncio.timeout(30):
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_what_is_not_read_in_time_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_WRITE_SECONDS", 0.05)
    body = bytes(20 << 20)
    async with serving(body) as (http, port), client(port) as (reader, writer):
        writer.write(ASK)
        await reader.readline()
        size = 0
        async with asyncio.timeout(30):
            while http._connections:  # noqa: ASYNC110 - until its time is over
                await asyncio.sleep(0.01)
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(1 << 20):
                    size += len(piece)
        assert size < len(body)


async def test_others_have_their_turn_between_requests_that_came_at_once() -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    async with serving(b"ok\n") as (_, port), client(port) as (reader, writer):
        writer.write(ASK * 200)
        await writer.drain()
        await reader.readline()
        turn()
        count = 1
        async with asyncio.timeout(30):
            while count < 200:
                count += (await reader.readline()).startswith(b"HTTP/1.1")
    assert turns > 150
