"""What a push costs a receiver while one number stays open and ever more later ones are answered. Wanted: no more.

    python -m tests.bench.receiver

A link pushes to an inlet whose receiver holds the first batch and answers all others at once, as an Aggregator behind a
Filter may for some minutes. CPU of this process for link and inlet together, over the last thousand pushes before
1,000, 10,000 and 100,000 numbers, and what the inlet keeps then.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from polku.aio.loops import new_event_loop
from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Receipt, Turn
from polku.bench.machine import describe, machine
from polku.events import new_event
from polku.link.link import Link, Push, Window
from polku.link.receiver import LinkReceiver

WANTED = 1.5  # times what a push costs in the beginning
MEASURED = 1_000


class HoldsTheFirst:
    """Hold the first batch, and answer all others."""

    holds = True

    async def push(self, batch: Batch) -> Answer:
        if self.holds:
            self.holds = False
            return Accepted(asyncio.get_running_loop().create_future())
        return Receipt()


class Direct:
    """Reach an inlet of the same process."""

    def __init__(self, inlet: LinkReceiver) -> None:
        self.inlet = inlet

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        return await self.inlet.push(push, batch)

    async def flush(self, everything: bool) -> None:
        return


async def measure(goals: list[int], in_flight: int) -> list[tuple[int, float, int]]:
    """Return for each number of pushes the CPU microseconds of one, and the entries and ranges that the inlet keeps."""
    inlet = LinkReceiver(HoldsTheFirst(), eager=True)
    link = Link("link", Direct(inlet), window=Window(batches=in_flight, join_events=0))
    batch = Batch.from_events([new_event("x")])
    held = link.push_nowait(batch.unidentified())
    results, pushed = [], 1
    for goal in goals:
        while pushed < goal:
            if goal - pushed <= MEASURED < goal - pushed + in_flight:
                started = time.process_time()
            await asyncio.gather(*(link.push_nowait(_another(batch)) for _ in range(in_flight)))
            pushed += in_flight
        cost = (time.process_time() - started) / MEASURED * 1e6
        sender = inlet._senders["link"]
        results.append((goal, cost, len(sender.entries) + len(sender.closed)))
    held.cancel()
    await link.close()
    return results


def _another(batch: Batch) -> Batch:
    return Batch(payload=batch.payload, count=len(batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--in-flight", type=int, default=2)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        results = runner.run(measure(options.numbers, options.in_flight))
    print("| numbers above the open one | µs a push | kept by the receiver |")
    print("|---|---|---|")
    for goal, cost, kept in results:
        print(f"| {goal:,} | {cost:.1f} | {kept} |")
    verdict = "met" if results[-1][1] <= WANTED * results[0][1] else "missed"
    print(f"\nat most {WANTED} times the first: {verdict}\n\n{describe(machine())}")


if __name__ == "__main__":
    main()
