"""The process that receives: it answers each request of OTLP, at most `rate` records a second, and notes what came."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

from polku.aio.loops import new_event_loop
from polku.gateway.grpc.calls import BatchMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2.limits import ConnectionLimits
from tests.bench.peers.records import METHOD, numbers_in

_MESSAGE_BYTES = 64 << 20
_LIMITS = ConnectionLimits(
    streams=10_000, unfinished=1 << 30, address_unfinished=1 << 30, port_unfinished=1 << 30, idle_seconds=3600
)


class Sink:
    """Note the numbers of all records."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._busy_until = 0.0
        self._numbers: list[list[bytes]] = []
        self.count = 0
        self.first = self.last = 0.0

    def calls(self, connection: GrpcConnection, calls: list[tuple[int, bytes]]) -> None:
        """Take requests; answer them when their time has come."""
        for number, message in calls:
            found = numbers_in(message)
            if not self._rate:
                self._take(found)
                connection.respond(number, b"")
                continue
            self._busy_until = max(self._busy_until, time.monotonic()) + len(found) / self._rate
            asyncio.get_running_loop().call_later(
                self._busy_until - time.monotonic(), self._answer, connection, number, found
            )

    def result(self) -> dict[str, Any]:
        """Return how often each request's records came: by its number, how many and how many of them twice."""
        times: Counter[bytes] = Counter()
        for found in self._numbers:
            times.update(found)
        requests: Counter[int] = Counter(int(number[:10]) for number in times)
        doubled = sum(count - 1 for count in times.values())
        return {"count": self.count, "first": self.first, "last": self.last, "doubled": doubled, "requests": requests}

    def _answer(self, connection: GrpcConnection, number: int, found: list[bytes]) -> None:
        self._take(found)
        connection.respond(number, b"")

    def _take(self, found: list[bytes]) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.count += len(found)
        self._numbers.append(found)


async def _main(order: dict[str, Any]) -> None:
    os.sched_setaffinity(0, order["cores"])
    sink = Sink(order["rate"])
    places = Places("connections", total=1_000, each=1_000, idle_seconds=3600)
    port = GrpcPort({METHOD.encode(): BatchMethod(sink.calls)}, _LIMITS, message_limit=_MESSAGE_BYTES, places=places)
    server = await asyncio.get_running_loop().create_server(partial(GrpcConnection, port), "127.0.0.1", 0)
    _tell({"port": server.sockets[0].getsockname()[1]})
    while line := await asyncio.to_thread(sys.stdin.readline):
        _tell({"count": sink.count} if line == "count\n" else sink.result())


def _tell(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_main(json.loads(sys.argv[1])))
