"""Channels to servers that are there, are not, come back, stand behind a proxy, or speak something else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from polku.gateway.grpc.calls import StreamCall, StreamMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2.limits import ConnectionLimits
from polku.rpc.channel import Channel, Target
from polku.rpc.client import GrpcClientConnection
from polku.rpc.status import Status, StatusCode
from tests.support.authority import Authority


class _Echo:
    """Answer each message of a stream with itself."""

    def __init__(self, call: StreamCall) -> None:
        self._call = call

    def messages(self, messages: list[bytes]) -> bool:
        for message in messages:
            self._call.send(message)
        return True

    def ended(self) -> None:
        self._call.finish(Status(StatusCode.OK))

    def drained(self) -> None: ...

    def leave(self, status: Status) -> None:
        self._call.finish(status)

    def lost(self) -> None: ...


class EchoServer:
    """A server of one method, `/s/Echo`."""

    def __init__(self) -> None:
        self.grpc = GrpcPort(
            {b"/s/Echo": StreamMethod(_Echo)},
            ConnectionLimits(stream_window=100_000, connection_window=100_000, frame=20_000),
            message_limit=8 << 20,
            places=Places("connections", total=100, each=100, idle_seconds=60.0),
        )
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0, *, path: str = "", tls: ssl.SSLContext | None = None) -> int:
        """Listen, and return the port."""
        loop = asyncio.get_running_loop()
        if path:
            self._server = await loop.create_unix_server(lambda: GrpcConnection(self.grpc), path)
            return 0
        server = await loop.create_server(lambda: GrpcConnection(self.grpc), "127.0.0.1", port, ssl=tls)
        self._server = server
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the port, and cut the connections off."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            for connection in list(self.grpc.connections):
                connection.abort()


@pytest.fixture
async def server() -> AsyncIterator[EchoServer]:
    server = EchoServer()
    yield server
    await server.stop()


class Talk:
    """One call, as its answers and its end."""

    def __init__(self, channel: Channel) -> None:
        self.answers: asyncio.Queue[bytes | Status] = asyncio.Queue()
        self.left = 0
        self.call = channel.begin("/s/Echo", self)

    async def ask(self, message: bytes) -> bytes | Status:
        await self.call.write([message])
        async with asyncio.timeout(30):
            return await self.answers.get()

    def answered(self, message: bytes) -> None:
        self.answers.put_nowait(message)

    def ended(self, status: Status) -> None:
        self.answers.put_nowait(status)

    def leaving(self, reason: str) -> None:
        self.left += 1


@asynccontextmanager
async def channel(target: Target | str) -> AsyncIterator[Channel]:
    opened = Channel(Target(target) if isinstance(target, str) else target)
    try:
        yield opened
    finally:
        await opened.close()


async def said(channel: Channel) -> Status:
    """Return how a call ends that is begun now."""
    answer = await Talk(channel).ask(b"a")
    assert isinstance(answer, Status)
    return answer


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
