"""What two replicas, and two chained lanes, deliver of code that takes 50 µs for an event: wanted is 1.8 times one.

    python -m tests.bench.scaling --rounds 3

On Ray, 8 connections; the four pipelines take turns, and medians of the ratios within a round are printed.
"""

from __future__ import annotations

import argparse
import statistics

from polku.bench import Load, Subject, measure
from polku.bench.machine import describe, machine
from tests.bench.rows import FILE, at_least

PAIRS = (("two replicas of one", "slow_replicas", "slow"), ("two chained lanes of one", "slow_lanes", "slow_chained"))
WANTED = 1.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    load = Load(seconds=options.seconds, connections=8)
    print("| | events/s, two and one | ratio (≥ 1.8) | lost |")
    print("|---|---|---|---|")
    for name, two, one in PAIRS:
        rounds = [
            [measure(Subject(file=f"{FILE}:{which}", runtime="ray"), load) for which in (two, one)]
            for _ in range(options.rounds)
        ]
        ratio = statistics.median(a.delivered_per_s / b.delivered_per_s for a, b in rounds)
        rates = ", ".join(f"{statistics.median(r[place].delivered_per_s for r in rounds):,.0f}" for place in (0, 1))
        lost = sum(result.lost or 0 for pair in rounds for result in pair)
        print(f"| {name} | {rates} | {ratio:.2f}, {at_least(ratio, WANTED)} | {lost} |", flush=True)
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    main()
