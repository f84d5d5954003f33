"""Channels to servers that stand behind a proxy."""

from __future__ import annotations

import pytest

from tests.rpc.echo import EchoServer, Talk, channel, said
from tests.rpc.proxy import ConnectProxy


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
