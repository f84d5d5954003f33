"""NATS as the conformance suite of sources needs it: a real server with one stream and one durable consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from polku import Event, NatsSource
from polku.testing import Origin, OriginAbility
from tests.nats.server import Server
from tests.support.real_server import OnRealServer

STREAM, DURABLE = "ORIGIN", "check"


class NatsOrigin(OnRealServer[Server], Origin):
    """What was not acknowledged is delivered again after a second."""

    abilities = OriginAbility.COMMITS | OriginAbility.AWAY

    def first(self) -> Server:
        server = Server()
        server.do(lambda streams: streams.add_stream(name=STREAM, subjects=["origin.>"]))
        return server

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
