"""What links cost: identity, window, the receiver's memory of what it has applied. Wanted: under 5 %.

    python -m tests.bench.links --rounds 15

The very objects of a pipeline (a stage with Filter and Transform, a buffer, a delivery to an emitter that reads the
bytes) are connected in one process, once by links with inlets at their ends, as between actors, and once by plain
calls that keep nothing: no identities, no windows, no memory. Both take turns; CPU of this process, batches of 1,000.
The least of the rounds counts, so it is what the code costs and not what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from polku import BufferStrategy, Filter, Hub, Transform
from polku.aio.loops import new_event_loop
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt, outcome_of
from polku.bench.machine import describe, machine
from polku.bench.pipelines import is_about_users, mark
from polku.bench.workload import Workload
from polku.link.link import Link, Receiver, Window
from polku.link.receiver import LinkReceiver
from polku.runtime.assembly import build_buffer, build_dead_letters, build_delivery, build_stage
from polku.v1.gateway_pb2 import IngestBatch

BATCH = 1_000
IN_FLIGHT = 8
WANTED = 0.05


class Reader:
    """An emitter that has the bytes made, and confirms."""

    name = "reader"
    seen = 0

    def emit(self, batch: Batch) -> None:
        self.seen += len(batch.payload)


class Direct:
    """In a link's place: calls the receiver, and keeps nothing."""

    is_holding = False

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        return asyncio.ensure_future(self.push(batch))

    async def push(self, batch: Batch) -> Receipt:
        answer = await self._receiver.push(batch)
        return await outcome_of(answer)

    def flush_nowait(self, *, everything: bool = False) -> None:
        return

    async def wait_room(self) -> None:
        return

    async def close(self) -> None:
        return


def linked(name: str, receiver: Receiver) -> Link:
    peer: Any = LinkReceiver(receiver)
    return Link(name, peer, window=Window(batches=IN_FLIGHT, join_events=0))


def direct(name: str, receiver: Receiver) -> Any:
    return Direct(receiver)


async def microseconds(connect: Callable[[str, Receiver], Any], batches: int) -> float:
    """Return the CPU microseconds of an event through objects that are connected so."""
    hub = Hub(runtime="inline").middleware(Filter(is_about_users)).middleware(Transform(mark)).emitter(Reader())
    plan = hub.buffer_strategy(BufferStrategy.ring(100_000)).plan("inline")
    letters = build_dead_letters(plan)
    delivery = build_delivery(plan.outlets[0])
    buffer = build_buffer(plan, {"reader": connect("buffer/reader", delivery)}, letters)
    await buffer.open()
    buffer.start()
    stage = build_stage(plan, plan.stages[0], connect("stage/buffer", buffer), letters)
    await stage.start()
    first = connect("ingest/stage", stage)
    message = Workload(batch=BATCH).template().message(0, time.time_ns())
    payload = IngestBatch.FromString(message).events.SerializeToString()
    started = time.process_time()
    for _ in range(0, batches, IN_FLIGHT):
        pushes: list[Awaitable[Receipt]] = [
            first.push_nowait(Batch(payload=payload, count=BATCH)) for _ in range(IN_FLIGHT)
        ]
        await asyncio.gather(*pushes)
    await buffer.drain()
    used = time.process_time() - started
    for part in (first, stage, buffer, delivery):
        await part.close()
    return used / (batches * BATCH) * 1e6


def _run(measuring: Coroutine[Any, Any, float]) -> float:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(measuring)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=200)
    options = parser.parse_args()
    rounds = [
        [_run(microseconds(connect, options.batches)) for connect in (direct, linked)] for _ in range(options.rounds)
    ]
    plain, links = (min(each[place] for each in rounds) for place in (0, 1))
    added = links / plain - 1
    verdict = "met" if added < WANTED else "missed"
    print("| plain calls, µs an event | three links | added (< 5 %) | |")
    print("|---|---|---|---|")
    print(f"| {plain:.3f} | {links:.3f} | {added:.1%} | {verdict} |")
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    main()
