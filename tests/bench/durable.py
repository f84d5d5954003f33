"""What a journal costs: rate, added latency, transactions a second and events in each.

    python -m tests.bench.durable --runtime inline --runtime ray --rounds 5

The same pipeline with a ring and with a journal on this disk takes turns: as fast as it goes, with 32 batches of 1,000
in flight, then in an open loop at a fixed rate, where the difference of the median latencies is what the disk adds.
Each transaction is one `fsync` (WAL, `synchronous=FULL`; checkpoints come on top); they are counted in the inline
runtime.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from polku.bench import Load, Subject
from polku.bench.ledger import Ledger
from polku.bench.machine import describe, machine
from polku.bench.trial import session
from polku.histogram import Histogram
from tests.bench.rows import FILE

BUFFERS = {"ring": "hub", "durable": "durable"}


def once(runtime: str, buffer: str, events: int, rate: float) -> dict[str, float]:
    """Measure one pipeline at its best rate, and then at a fixed one."""
    fast, steady = Load(events=events), Load(seconds=3.0, rate=rate)
    with session(Subject(file=f"{FILE}:{BUFFERS[buffer]}", runtime=runtime), fast) as running:
        before = running.commits() or 0
        sent = running.send(fast)
        commits = (running.commits() or 0) - before
        after = running.send(steady)
        _, got = running.stop()
    delivered = Ledger(fast.workload.batch)
    delivered.merge(Ledger.from_json(one["ledger"]) for one in got.values())
    seconds = sent["last"] - sent["first"]
    return {
        "rate": sent["acked"] / seconds,
        "p50": 1e3 * (Histogram.from_json(after["accepted"]).percentile(50) or 0.0),
        "commits": commits / seconds,
        "events": sent["acked"] / commits if commits else 0.0,
        "lost": sum(delivered.missing(Ledger.from_json(each["ledger"])) for each in (sent, after)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", action="append", choices=["inline", "ray"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rate", type=float, default=20_000.0, help="events a second in the open loop")
    options = parser.parse_args()
    columns = ("runtime", "ring, events/s", "durable", "ratio (≥ 70 %)", "p50 ring", "added p50", "fsyncs/s")
    print("|", " | ".join((*columns, "events a fsync", "lost")), "|")
    print("|---" * (len(columns) + 2) + "|")
    for runtime in options.runtime or ["inline", "ray"]:
        rounds = [
            {buffer: once(runtime, buffer, options.events, options.rate) for buffer in BUFFERS}
            for _ in range(options.rounds)
        ]
        print(_line(runtime, rounds), flush=True)
    print(f"\n{describe(machine())}; {options.rate:,.0f} events/s in the open loop")


def _line(runtime: str, rounds: list[dict[str, dict[str, float]]]) -> str:
    def median(buffer: str, name: str) -> float:
        return statistics.median(each[buffer][name] for each in rounds)

    ratio = statistics.median(each["durable"]["rate"] / each["ring"]["rate"] for each in rounds)
    added = statistics.median(each["durable"]["p50"] - each["ring"]["p50"] for each in rounds)
    lost: Any = sum(one["lost"] for each in rounds for one in each.values())
    commits, events = median("durable", "commits"), median("durable", "events")
    counted = f"{commits:,.0f} | {events:,.0f}" if commits else "not counted | not counted"
    rates = f"{median('ring', 'rate'):,.0f} | {median('durable', 'rate'):,.0f} | {ratio:.0%}"
    return f"| {runtime} | {rates} | {median('ring', 'p50'):.2f} ms | {added:.2f} ms | {counted} | {lost} |"


if __name__ == "__main__":
    main()
