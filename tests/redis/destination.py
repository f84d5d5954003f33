"""Redis as the conformance suite needs it: a real server that is killed, and that stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from polku import RedisStreamsEmitter
from polku.event.v1.event_pb2 import Event
from polku.testing import Ability, Destination
from tests.redis.server import Server

STREAM = "conformance"


class Redis(Destination):
    """A stream for each event that is refused or busy has a key of another kind, or the server's memory is full."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG | Ability.REFUSE

    def __init__(self) -> None:
        self._server: Server | None = None
        self._sent = 0
        self._refused: set[str] = set()

    async def start(self) -> None:
        if self._server is None:
            self._server = await asyncio.to_thread(Server)
        else:
            await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    def emitter(self) -> RedisStreamsEmitter:
        def stream(event: Event) -> str:
            return f"other-{event.id}" if event.id in self._refused else STREAM

        return RedisStreamsEmitter(stream, url=self.server.url, timeout=60.0)

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    async def held(self) -> list[str]:
        return await asyncio.to_thread(self._read)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def hang(self) -> None:
        """Take nothing and confirm nothing: what comes lies in the socket of a process that is stopped."""
        self.server.stop_answering()

    async def resume(self) -> None:
        self.server.answer_again()

    async def is_waited_for(self) -> bool:
        """Return whether a request lies in a socket of the server."""
        lines = await asyncio.to_thread(_tcp_lines)
        port = f":{self.server.port:04X}"
        return any(local.endswith(port) and queue != "00000000" for local, state, queue in lines if state == "01")

    async def refuse(self, ids: Collection[str]) -> None:
        self._refused = set(ids)
        with self.server.client() as client:
            for event_id in ids:
                client.set(f"other-{event_id}", "no stream")

    def _read(self) -> list[str]:
        with self.server.client() as client:
            return [fields[b"id"].decode() for _, fields in client.xrange(STREAM)]


def _tcp_lines() -> list[tuple[str, str, str]]:
    """Return of each TCP socket its local address, its state and the bytes that were not read, as the kernel has it."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.read().splitlines()[1:]]
    return [(row[1], row[3], row[4].partition(":")[2]) for row in rows]
