"""NATS as the conformance suite needs it: a real server that is killed, and that stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from polku import NatsEmitter
from polku.event.v1.event_pb2 import Event
from polku.testing import Ability, Destination
from tests.nats.server import Server
from tests.support.real_server import OnRealServer

STREAM = "CONFORMANCE"


class Nats(OnRealServer[Server], Destination):
    """One stream; events that are refused have a subject that none takes."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG | Ability.REFUSE | Ability.UNIQUE

    def __init__(self) -> None:
        super().__init__()
        self._refused: set[str] = set()

    def first(self) -> Server:
        server = Server()
        server.do(lambda streams: streams.add_stream(name=STREAM, subjects=["taken.>"]))
        return server

    def emitter(self) -> NatsEmitter:
        def subject(event: Event) -> str:
            return "refused.x" if event.id in self._refused else "taken.x"

        return NatsEmitter(subject, servers=self.server.url, timeout=60.0)

    async def held(self) -> list[str]:
        return await asyncio.to_thread(self.server.do, read)

    async def is_waited_for(self) -> bool:
        """Return whether something lies in a socket of the server, or waits for its greeting."""
        return await asyncio.to_thread(self.server.has_unread, "01", "0A")

    async def refuse(self, ids: Collection[str]) -> None:
        self._refused = set(ids)


async def read(streams: Any) -> list[str]:
    """Return the ids of all events of the stream."""
    info = await streams.stream_info(STREAM)
    numbers = range(info.state.first_seq, info.state.last_seq + 1) if info.state.messages else ()
    messages = [await streams.get_msg(STREAM, number) for number in numbers]
    return [Event.FromString(message.data).id for message in messages]
