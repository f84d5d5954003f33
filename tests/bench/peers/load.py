"""The process that sends: `in_flight` requests over some connections, until all are acknowledged or time is over.

With `rate`, in records a second, it is an open loop, as far as requests in flight allow. What is answered with a
status that may be tried again (UNAVAILABLE, RESOURCE_EXHAUSTED) is sent again after a pause, as an SDK does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from typing import Any

from polku.aio.loops import new_event_loop
from polku.histogram import Histogram
from polku.rpc.channel import Channel, Target
from polku.rpc.client import GrpcClientConnection, request_head
from polku.rpc.status import Status, StatusCode
from tests.bench.peers.records import METHOD, Requests

_AGAIN = (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)
_PAUSE_SECONDS = 0.1


class Load:
    """Send requests and keep what became of them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._requests = Requests(order["batch"], order["size"])
        self._order = order
        self._next = self._begin = order["first"]
        self._again: deque[int] = deque()
        self._open = 0
        self._sent = 0
        self.acked: list[int] = []
        self.refused: Counter[str] = Counter()
        self.answered = Histogram()
        self.first = self.last = 0.0
        self._connections: list[GrpcClientConnection] = []
        self._turn = asyncio.Event()

    async def connect(self) -> None:
        target = self._order["target"]
        self._head = request_head(target, METHOD, tls=False)
        for _ in range(self._order["connections"]):
            self._connections.append(await Channel(Target(target)).connection())

    async def run(self) -> None:
        """Send everything."""
        self.first = self.last = time.monotonic()
        until = self.first + self._order["seconds"]
        while self._has_more(until) or self._open:
            while self._has_more(until) and self._open < self._order["in_flight"] and self._is_due():
                self._send()
            self._turn.clear()
            try:
                await asyncio.wait_for(self._turn.wait(), 0.005 if self._order["rate"] else 30.0)
            except TimeoutError:
                if time.monotonic() > self.last + 60:
                    return

    def done(self, number: int, began: float, status: Status) -> None:
        """Note the end of a call."""
        self._open -= 1
        self.last = time.monotonic()
        if status.code == StatusCode.OK:
            self.acked.append(number)
            self.answered.record(self.last - began, self._requests.batch)
        else:
            self.refused[StatusCode(status.code).name] += 1
            if status.code in _AGAIN:
                asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._again.append, number)
        self._turn.set()

    def result(self) -> dict[str, Any]:
        """Return what was seen."""
        p50, p99 = self.answered.percentile(50), self.answered.percentile(99)
        return {
            "acked": self.acked,
            "sent": self._next - self._begin,
            "refused": self.refused,
            "first": self.first,
            "last": self.last,
            "p50": p50,
            "p99": p99,
        }

    def _has_more(self, until: float) -> bool:
        if self._order["seconds"] and time.monotonic() > until:
            return False
        return bool(self._again) or not self._order["requests"] or self._next < self._begin + self._order["requests"]

    def _is_due(self) -> bool:
        if not self._order["rate"]:
            return True
        due: float = (time.monotonic() - self.first) * self._order["rate"] / self._requests.batch
        return float(self._sent) < due

    def _send(self) -> None:
        if self._again:
            number = self._again.popleft()
        else:
            number, self._next = self._next, self._next + 1
        connection = self._connections[self._sent % len(self._connections)]
        self._sent += 1
        self._open += 1
        connection.ask(self._head, self._requests.request(number), _Call(self, number, time.monotonic()))


class _Call:
    __slots__ = ("_began", "_load", "_number")

    def __init__(self, load: Load, number: int, began: float) -> None:
        self._load = load
        self._number = number
        self._began = began

    def answered(self, message: bytes) -> None:
        """The status follows."""

    def ended(self, status: Status) -> None:
        self._load.done(self._number, self._began, status)

    def leaving(self, reason: str) -> None:
        """The call comes to its end."""


async def _main(order: dict[str, Any]) -> None:
    os.sched_setaffinity(0, order["cores"])
    load = Load(order)
    await load.connect()
    print(json.dumps({"ready": True}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await load.run()
    print(json.dumps(load.result()), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_main(json.loads(sys.argv[1])))
