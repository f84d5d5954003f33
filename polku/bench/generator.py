"""The process that sends: closed loop (so many messages in flight) or open loop (so many events a second).

In an open loop the schedule is fixed before: a message that leaves late, since the pipeline or this process was busy,
is measured from the time at which it should have left, so that a stall counts for all that would have come during it.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from polku.bench.lane import LoadLane
from polku.bench.ledger import Ledger
from polku.bench.workload import HEAD_BYTES, ID_BYTES, PREFIX, Workload
from polku.histogram import Histogram
from polku.v1.gateway_pb2 import Ack

_TELL_SECONDS = 0.2
_PATIENCE = 30.0  # seconds without any answer after which the rest counts as unanswered
_OPEN_EVENTS = 200_000  # in flight at most in an open loop: what is late then leaves later, and is measured as such


@dataclass(frozen=True, slots=True)
class Order:
    """Say what to send where: for all `batches`, or as many as fit into `seconds`; `rate` in events a second.

    `epoch_ns` is the difference between Unix time and this machine's monotonic clock; `first_batch` is the number of
    the first batch.
    """

    target: str
    workload: Workload
    epoch_ns: int
    batches: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    in_flight: int = 32
    connections: int = 1
    first_batch: int = 0


class Generator:
    """Send a workload over some connections and keep what became of it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.template = order.workload.template()
        self.ledger = Ledger(order.workload.batch, order.connections)
        self.accepted = Histogram()
        self.refusals: Counter[str] = Counter()
        self.example = ""
        self.sent = self.acked = self.refused = self.failed = self.foreign = 0
        self.first = self.last = 0.0
        self.last_ack = b""
        self._lanes: list[LoadLane] = []
        self._finished = asyncio.Event()
        self._room = asyncio.Event()

    async def connect(self) -> None:
        """Open all connections."""
        self._lanes = [LoadLane(self, lane) for lane in range(self.order.connections)]
        for lane in self._lanes:
            await lane.connect()

    async def run(self) -> None:
        """Send everything and wait for the answers."""
        self.first = self.last = time.monotonic()
        if self.order.rate:
            await self._keep_pace()
        else:
            share, rest = divmod(self.order.in_flight, len(self._lanes))
            for lane in self._lanes:
                lane.fill(max(1, share + (lane.number < rest)))
        for lane in self._lanes:
            lane.finish_if_done()
        while any(not lane.done for lane in self._lanes) and time.monotonic() - self.last < _PATIENCE:
            self._finished.clear()
            try:
                await asyncio.wait_for(self._finished.wait(), 1.0)
            except TimeoutError:
                continue
        for lane in self._lanes:
            lane.close()

    def more(self) -> bool:
        """Return whether there is anything left to send."""
        if self.order.batches and self.sent >= self.order.batches:
            return False
        return not self.order.seconds or time.monotonic() - self.first < self.order.seconds

    def message(self, number: int, intended: float) -> bytes:
        """Make the message of a batch."""
        return self.template.message(number, int(intended * 1e9) + self.order.epoch_ns)

    def answered(self, number: int, intended: float, answer: bytes) -> None:
        """Note an Ack."""
        self.last = now = time.monotonic()
        self._room.set()
        self.accepted.record(now - intended, self.order.workload.batch)
        self.last_ack = answer
        if self.ledger.note_whole(number, answer):
            self.acked += self.order.workload.batch
            return
        ack = Ack.FromString(answer)
        heads = [b"\x0a\x16" + event_id.encode() for event_id in ack.event_ids if len(event_id) == ID_BYTES]
        ours = [head for head in heads if head.startswith(PREFIX) and len(head) == HEAD_BYTES]
        self.ledger.note(b"".join(ours))
        self.acked += len(ours)
        self.foreign += len(ack.event_ids) - len(ours)
        self.refused += len(ack.errors)
        for error in ack.errors:
            self.refusals[error.code] += 1
            self.example = self.example or f"{error.code}: {error.message}"

    def failed_once(self, status: str) -> None:
        """Note a call that ended without an answer."""
        self.failed += 1
        self.refusals[status] += 1
        self.last = time.monotonic()
        self._room.set()

    def over(self) -> None:
        """Learn that a lane is done."""
        self._finished.set()
        self._room.set()

    def result(self) -> dict[str, Any]:
        """Return everything that was seen."""
        stats = Ack.FromString(self.last_ack).middleware_stats
        dropped = (stats.filtered_count, stats.sampled_out_count, stats.dedup_count, stats.rate_limited_count)
        return {
            "sent": self.sent * self.order.workload.batch,
            "acked": self.acked,
            "refused": self.refused,
            "refusals": dict(self.refusals),
            "example": self.example,
            "failed": self.failed * self.order.workload.batch,
            "unanswered": sum(lane.open for lane in self._lanes) * self.order.workload.batch,
            "foreign": self.foreign,
            "dropped": dict(zip(("filtered", "sampled", "deduplicated", "rate_limited"), dropped, strict=True)),
            "first": self.first,
            "last": self.last,
            "accepted": self.accepted.to_json(),
            "ledger": self.ledger.to_json(),
        }

    async def _keep_pace(self) -> None:
        interval = self.order.workload.batch / self.order.rate
        most = max(self.order.in_flight, _OPEN_EVENTS // self.order.workload.batch)
        while self.more():
            intended = self.first + self.sent * interval
            wait = intended - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            while sum(lane.open for lane in self._lanes) >= most:
                self._room.clear()
                await self._room.wait()
            lane = self._lanes[self.sent % len(self._lanes)]
            if lane.done:
                return
            lane.send(intended)
            if self.sent % 64 == 0:
                await asyncio.sleep(0)  # late or not, answers have to be read


async def _main(order: Order) -> None:
    generator = Generator(order)
    await generator.connect()
    _tell({"ready": True})
    await asyncio.to_thread(sys.stdin.readline)
    telling = asyncio.create_task(_tell_now_and_then(generator))
    await generator.run()
    telling.cancel()
    _tell({"result": generator.result()})


async def _tell_now_and_then(generator: Generator) -> None:
    while True:
        await asyncio.sleep(_TELL_SECONDS)
        _tell({"sent": generator.sent * generator.order.workload.batch, "acked": generator.acked})


def _tell(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def _loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that can wait for microseconds: those on epoll round up to milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_main(Order(**{**fields, "workload": Workload(**fields["workload"])})))
