"""Channels to servers that are there, are not, come back, or speak something else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from polku.http2.limits import ConnectionLimits
from polku.rpc.channel import Channel, Target
from polku.rpc.client import GrpcClientConnection
from polku.rpc.status import Status, StatusCode
from tests.rpc.echo import EchoServer, Talk, channel, said
from tests.support.authority import Authority


async def test_calls_share_a_connection(server: EchoServer) -> None:
    async with channel(f"127.0.0.1:{await server.start()}") as opened:
        talks = [Talk(opened) for _ in range(5)]
        assert await asyncio.gather(*(talk.ask(b"%d" % n) for n, talk in enumerate(talks))) == [
            b"0", b"1", b"2", b"3", b"4",
        ]  # fmt: skip
        assert opened.is_connected
        assert len(server.grpc.connections) == 1
        talks[0].call.end()
        assert await talks[0].answers.get() == Status(StatusCode.OK)


@pytest.mark.parametrize("size", [0, 1, 20_000, 100_001, 5_000_000])
async def test_messages_of_any_size_pass_windows_in_both_directions(server: EchoServer, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    async with channel(f"127.0.0.1:{await server.start()}") as opened:
        assert await Talk(opened).ask(content[:size]) == content[:size]


async def test_a_socket_of_this_machine(server: EchoServer, tmp_path: Path) -> None:
    await server.start(path=f"{tmp_path}/s")
    for address in (f"unix:{tmp_path}/s", f"unix://{tmp_path}/s"):
        async with channel(address) as opened:
            assert await Talk(opened).ask(b"a") == b"a"


async def test_nobody_listens_and_then_somebody_does(server: EchoServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with channel(f"127.0.0.1:{port}") as opened:
        status = await said(opened)
        assert status.code == StatusCode.UNAVAILABLE
        assert status.message.startswith("cannot connect: ")
        await server.start(port)
        async with asyncio.timeout(30):
            while not opened.is_connected:  # noqa: ASYNC110 - it is looked at, as emitters look at it
                await asyncio.sleep(0.02)
        assert await Talk(opened).ask(b"a") == b"a"


async def test_a_connection_that_is_lost_is_opened_again(server: EchoServer) -> None:
    async with channel(f"127.0.0.1:{await server.start()}") as opened:
        talk = Talk(opened)
        assert await talk.ask(b"a") == b"a"
        for connection in list(server.grpc.connections):
            connection.abort()
        status = await talk.answers.get()
        assert isinstance(status, Status)
        assert status.code == StatusCode.UNAVAILABLE
        assert await Talk(opened).ask(b"b") == b"b"


async def test_a_server_that_leaves_gets_no_new_calls(server: EchoServer) -> None:
    async with channel(f"127.0.0.1:{await server.start()}") as opened:
        talk = Talk(opened)
        assert await talk.ask(b"a") == b"a"
        (first,) = server.grpc.connections
        first.drain()
        async with asyncio.timeout(30):
            while not talk.left:  # noqa: ASYNC110 - it is heard, not awaited
                await asyncio.sleep(0.01)
        assert await talk.ask(b"b") == b"b"
        other = Talk(opened)
        assert await other.ask(b"c") == b"c"
        assert len(server.grpc.connections) == 2
        talk.call.end()
        assert await talk.answers.get() == Status(StatusCode.OK)
        await first.gone


async def test_an_unknown_method_and_what_speaks_no_http2(server: EchoServer) -> None:
    async with channel(f"127.0.0.1:{await server.start()}") as opened:
        talk = Talk(opened)
        talk.call = opened.begin("/s/Nothing", talk)
        status = await talk.ask(b"a")
        assert isinstance(status, Status)
        assert status.code == StatusCode.UNIMPLEMENTED
    async with _answering(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n") as port, channel(port) as opened:
        status = await said(opened)
        assert status.code == StatusCode.UNAVAILABLE
        assert "breaks HTTP/2" in status.message


async def test_a_server_that_takes_no_connection_is_given_up_in_time() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        blockers = [socket.create_connection(deaf.getsockname()) for _ in range(1)]  # its queue is full
        try:
            async with channel(Target(f"127.0.0.1:{deaf.getsockname()[1]}", None, 0.2)) as opened:
                assert (await said(opened)).message == "no connection within 0.2 s"
        finally:
            for blocker in blockers:
                blocker.close()


async def test_encrypted_and_checked(server: EchoServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    port = await server.start(tls=context)

    def trusting() -> ssl.SSLContext:
        ours = ssl.create_default_context(cafile=str(authority.cert))
        ours.set_alpn_protocols(["h2"])
        return ours

    def without_alpn() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(authority.cert))

    for host in ("localhost", "127.0.0.1"):
        async with channel(Target(f"{host}:{port}", trusting)) as opened:
            assert await Talk(opened).ask(b"x" * 300_000) == b"x" * 300_000
    async with channel(Target(f"localhost:{port}", ssl.create_default_context)) as opened:
        assert "certificate verify failed" in (await said(opened)).message
    async with channel(Target(f"localhost:{port}", without_alpn)) as opened:
        assert "does not speak HTTP/2 over TLS" in (await said(opened)).message


async def test_closing_a_channel_ends_its_calls(server: EchoServer) -> None:
    opened = Channel(Target(f"127.0.0.1:{await server.start()}"))
    talk = Talk(opened)
    assert await talk.ask(b"a") == b"a"
    await opened.close()
    status = await talk.answers.get()
    assert isinstance(status, Status)
    await opened.close()


async def test_closing_a_channel_ends_calls_that_wait_for_a_connection() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with socket.create_connection(deaf.getsockname()):  # its queue is full
            opened = Channel(Target(f"127.0.0.1:{deaf.getsockname()[1]}"))
            asking = asyncio.create_task(said(opened))
            await asyncio.sleep(0)
            assert not opened.is_connected
            await opened.close()
            assert await asking == Status(StatusCode.UNAVAILABLE, "the channel is closed")


async def test_a_channel_that_is_closed_opens_no_connection(server: EchoServer) -> None:
    opened = Channel(Target(f"127.0.0.1:{await server.start()}"))
    await opened.close()
    assert not opened.is_connected
    assert opened._connecting is None
    assert await said(opened) == Status(StatusCode.UNAVAILABLE, "the channel is closed")
    assert not server.grpc.connections


async def test_a_connection_that_is_lost_before_its_first_call(server: EchoServer) -> None:
    class Unlucky(Channel):
        async def _open(self) -> GrpcClientConnection:
            connection = await super()._open()
            connection.abort()
            await connection.gone
            return connection

    opened = Unlucky(Target(f"127.0.0.1:{await server.start()}"))
    assert await said(opened) == Status(StatusCode.UNAVAILABLE, "the connection was closed")
    await opened.close()


async def test_closing_a_channel_ends_calls_of_its_earlier_connections(server: EchoServer) -> None:
    server.grpc.limits = ConnectionLimits(streams=1)
    opened = Channel(Target(f"127.0.0.1:{await server.start()}"))
    talks = [Talk(opened), Talk(opened), Talk(opened)]
    for talk in talks:
        assert await talk.ask(b"a") == b"a"
    assert len(server.grpc.connections) == 3
    talks[0].call.end()
    assert await talks[0].answers.get() == Status(StatusCode.OK)
    async with asyncio.timeout(30):
        while len(server.grpc.connections) > 2:  # noqa: ASYNC110 - the server hears of it
            await asyncio.sleep(0.01)
        await opened.close()
        for talk in talks[1:]:
            assert isinstance(await talk.answers.get(), Status)


@asynccontextmanager
async def _answering(answer: bytes) -> AsyncIterator[str]:
    """Answer each connection with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
