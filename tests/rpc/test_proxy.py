"""Channels to servers that stand behind a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.rpc.echo import EchoServer, Talk, channel, said


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


class ConnectProxy:
    """A proxy that leads every CONNECT to one port, and remembers what it was asked."""

    def __init__(self, port: int, answer: bytes = b"HTTP/1.1 200 OK\r\nvia: us\r\n\r\n") -> None:
        self._port = port
        self._answer = answer
        self.asked: list[bytes] = []
        self._open: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            await self._lead(reader, writer)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self._answer)
        if b" 200 " not in self._answer:
            return
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)
        async with _closing(other_writer):
            await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer))


async def test_a_proxy_leads_to_what_is_elsewhere(server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = ConnectProxy(await server.start())
    async with proxy.listening() as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://us:s%40fe@{address}")
        async with channel("gateway.invalid:50051") as opened:
            assert await Talk(opened).ask(b"a") == b"a"
        (asked,) = proxy.asked
        assert asked.startswith(b"CONNECT gateway.invalid:50051 HTTP/1.1\r\nHost: gateway.invalid:50051\r\n")
        assert b"Proxy-Authorization: Basic dXM6c0BmZQ==\r\n" in asked
        monkeypatch.setenv("NO_PROXY", "other.invalid,.invalid")
        async with channel("gateway.invalid:50051") as opened:
            assert "cannot connect" in (await said(opened)).message
        assert len(proxy.asked) == 1


async def test_this_machine_is_reached_without_a_proxy(server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    port = await server.start()
    for host in ("127.0.0.1", "localhost"):
        async with channel(f"{host}:{port}") as opened:
            assert await Talk(opened).ask(b"a") == b"a"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answers 'HTTP/1.1 407 Proxy Authentication Required'"),
        (b"", "it closed the connection"),
        (b"x" * 100_000, "its answer has no end"),
    ],
)
async def test_a_proxy_that_refuses_is_named(answer: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = ConnectProxy(0, answer)
    async with proxy.listening() as address:
        monkeypatch.setenv("http_proxy", address)
        async with channel("gateway.invalid:50051") as opened:
            status = await said(opened)
    assert f"proxy {address}" in status.message
    assert message in status.message


async def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://somewhere:1080")
    async with channel("gateway.invalid:50051") as opened:
        assert "HTTP_PROXY: write http://host:port" in (await said(opened)).message


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()
