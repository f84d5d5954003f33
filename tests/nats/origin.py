"""NATS as the conformance suite of sources needs it: a real server with one stream and one durable consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from polku import Event, NatsSource
from polku.testing import Origin, OriginAbility
from tests.nats.server import Server

STREAM, DURABLE = "ORIGIN", "check"


class NatsOrigin(Origin):
    """What was not acknowledged is delivered again after a second."""

    abilities = OriginAbility.COMMITS | OriginAbility.AWAY

    def __init__(self) -> None:
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    async def start(self) -> None:
        if self._server is None:
            self._server = await asyncio.to_thread(Server)
            await asyncio.to_thread(self._server.do, lambda js: js.add_stream(name=STREAM, subjects=["origin.>"]))
        else:
            await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    def source(self) -> NatsSource:
        return NatsSource(STREAM, DURABLE, servers=self.server.url, ack_seconds=1.0, window=self.window)

    async def put(self, texts: Sequence[str]) -> None:
        async def publish(streams: Any) -> None:
            for text in texts:
                event = Event(id=text[:20], event_type="t", source="s", payload=text.encode())
                await streams.publish("origin.x", event.SerializeToString())

        await asyncio.to_thread(self.server.do, publish)

    async def committed(self) -> int:
        return await asyncio.to_thread(self.server.do, _committed)


async def _committed(streams: Any) -> int:
    from nats.js.errors import NotFoundError

    try:
        consumer = await streams.consumer_info(STREAM, DURABLE)
    except NotFoundError:
        return 0
    return int(consumer.delivered.stream_seq) - int(consumer.num_ack_pending)
