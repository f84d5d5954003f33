"""A server that echoes, on a port of its own, and calls of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from polku.gateway.grpc.calls import StreamCall, StreamMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2.limits import ConnectionLimits
from polku.rpc.channel import Channel, Target
from polku.rpc.status import Status, StatusCode


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
