"""Redis as the conformance suite of sources needs it: a real server with one stream and one group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from polku import Event, RedisStreamsSource
from polku.testing import Origin, OriginAbility
from tests.redis.server import Server
from tests.support.real_server import OnRealServer

STREAM, GROUP = "origin", "check"


class RedisOrigin(OnRealServer[Server], Origin):
    """What a consumer did not acknowledge is claimed by another one after a second."""

    abilities = OriginAbility.COMMITS | OriginAbility.AWAY

    def first(self) -> Server:
        return Server()

    def source(self) -> RedisStreamsSource:
        url, window = self.server.url, self.window
        return RedisStreamsSource(STREAM, GROUP, url=url, claim_seconds=1.0, window=window)

    async def put(self, texts: Sequence[str]) -> None:
        await asyncio.to_thread(self._put, texts)

    async def committed(self) -> int:
        return await asyncio.to_thread(self._committed)

    def _put(self, texts: Sequence[str]) -> None:
        with self.server.client() as client:
            for text in texts:
                event = Event(id=text[:20], event_type="t", source="s", payload=text.encode())
                client.xadd(STREAM, {"data": event.SerializeToString()})

    def _committed(self) -> int:
        with self.server.client() as client:
            for group in client.xinfo_groups(STREAM) if client.exists(STREAM) else ():
                return int(group["entries-read"] or 0) - int(group["pending"])
        return 0
