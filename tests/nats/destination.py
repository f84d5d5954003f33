"""NATS as the conformance suite needs it: a real server that is killed, and that stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from polku import NatsEmitter
from polku.event.v1.event_pb2 import Event
from polku.testing import Ability, Destination
from tests.nats.server import Server
from tests.redis.destination import _tcp_lines

STREAM = "CONFORMANCE"


class Nats(Destination):
    """One stream; events that are refused have a subject that none takes."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG | Ability.REFUSE | Ability.UNIQUE

    def __init__(self) -> None:
        self._server: Server | None = None
        self._refused: set[str] = set()

    async def start(self) -> None:
        if self._server is None:
            self._server = await asyncio.to_thread(Server)
            await asyncio.to_thread(self._server.do, lambda js: js.add_stream(name=STREAM, subjects=["taken.>"]))
        else:
            await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    def emitter(self) -> NatsEmitter:
        def subject(event: Event) -> str:
            return "refused.x" if event.id in self._refused else "taken.x"

        return NatsEmitter(subject, servers=self.server.url, timeout=60.0)

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    async def held(self) -> list[str]:
        return await asyncio.to_thread(self.server.do, read)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def hang(self) -> None:
        """Take nothing and confirm nothing: what comes lies in the socket of a process that is stopped."""
        self.server.stop_answering()

    async def resume(self) -> None:
        self.server.answer_again()

    async def is_waited_for(self) -> bool:
        """Return whether something lies in a socket of the server, or waits for its greeting."""
        lines = await asyncio.to_thread(_tcp_lines)
        port = f":{self.server.port:04X}"
        return any(
            local.endswith(port) and queue != "00000000" for local, state, queue in lines if state in ("01", "0A")
        )

    async def refuse(self, ids: Collection[str]) -> None:
        self._refused = set(ids)


async def read(streams: Any) -> list[str]:
    """Return the ids of all events of the stream."""
    info = await streams.stream_info(STREAM)
    numbers = range(info.state.first_seq, info.state.last_seq + 1) if info.state.messages else ()
    messages = [await streams.get_msg(STREAM, number) for number in numbers]
    return [Event.FromString(message.data).id for message in messages]
