"""TLS in front of the mock broker, which has none."""

from __future__ import annotations

import asyncio
import struct

from tests.support.authority import Authority, Pair
from tests.support.tls_front import TlsFront

_HOST = b"127.0.0.1"


class KafkaFront(TlsFront):
    """Name itself as the broker, in every answer that names it."""

    def __init__(self, bootstrap: str, authority: Authority, pair: Pair) -> None:
        super().__init__(int(bootstrap.rpartition(":")[2]), authority, pair)
        self.bootstrap = f"127.0.0.1:{self.port}"

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass answers on, with this port instead of the broker's in the addresses that they name."""
        theirs, ours = (_HOST + struct.pack(">i", port) for port in (self.behind, self.port))
        while True:
            try:
                head = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(head, "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            writer.write(head + body.replace(theirs, ours))
            await writer.drain()
