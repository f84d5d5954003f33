"""Redis as the conformance suite needs it: a real server that is killed, and that stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from polku import RedisStreamsEmitter
from polku.event.v1.event_pb2 import Event
from polku.testing import Ability, Destination
from tests.redis.server import Server
from tests.support.real_server import OnRealServer

STREAM = "conformance"


class Redis(OnRealServer[Server], Destination):
    """A stream for each event that is refused or busy has a key of another kind, or the server's memory is full."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG | Ability.REFUSE

    def __init__(self) -> None:
        super().__init__()
        self._refused: set[str] = set()

    def first(self) -> Server:
        return Server()

    def emitter(self) -> RedisStreamsEmitter:
        def stream(event: Event) -> str:
            return f"other-{event.id}" if event.id in self._refused else STREAM

        return RedisStreamsEmitter(stream, url=self.server.url, timeout=60.0)

    async def held(self) -> list[str]:
        return await asyncio.to_thread(self._read)

    async def is_waited_for(self) -> bool:
        """Return whether a request lies in a socket of the server."""
        return await asyncio.to_thread(self.server.has_unread)

    async def refuse(self, ids: Collection[str]) -> None:
        self._refused = set(ids)
        with self.server.client() as client:
            for event_id in ids:
                client.set(f"other-{event_id}", "no stream")

    def _read(self) -> list[str]:
        with self.server.client() as client:
            return [fields[b"id"].decode() for _, fields in client.xrange(STREAM)]
