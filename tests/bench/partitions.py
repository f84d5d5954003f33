"""What two lanes deliver that share a Deduplicator: one stage for both, or two partitions.

    python -m tests.bench.partitions --rounds 3

On Ray, chained lanes, 8 connections, ids that are all new; the pipelines take turns, and medians are printed, of the
ratios those within a round. The second pair counts the ids of a function that takes 50 µs for an event.
"""

from __future__ import annotations

import argparse
import statistics

from polku.bench import Load, Subject, measure
from polku.bench.machine import describe, machine
from tests.bench.rows import FILE

PAIRS = (
    ("Deduplicator", "seen_partitions", "seen_lanes"),
    ("50 µs of code by id", "slow_partitions", "slow_by_id"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    load = Load(seconds=options.seconds, connections=8)
    print("| shared by two lanes | events/s, partitions 2 and 1 | µs CPU/event | ratio | lost |")
    print("|---|---|---|---|---|")
    for name, two, one in PAIRS:
        rounds = [
            [measure(Subject(file=f"{FILE}:{which}", runtime="ray"), load) for which in (two, one)]
            for _ in range(options.rounds)
        ]
        ratio = statistics.median(a.delivered_per_s / b.delivered_per_s for a, b in rounds)
        rates = ", ".join(f"{statistics.median(r[place].delivered_per_s for r in rounds):,.0f}" for place in (0, 1))
        costs = ", ".join(f"{statistics.median(r[place].cpu_us_per_event for r in rounds):.1f}" for place in (0, 1))
        lost = sum(result.lost or 0 for pair in rounds for result in pair)
        print(f"| {name} | {rates} | {costs} | {ratio:.2f} | {lost} |", flush=True)
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    main()
