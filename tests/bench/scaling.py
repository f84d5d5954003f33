"""What two replicas, and two chained lanes, deliver of code that takes 50 µs for an event: wanted is 1.8 times one.

    python -m tests.bench.scaling --rounds 3

On Ray, 8 connections; the four pipelines take turns, and medians of the ratios within a round are printed.
"""

from __future__ import annotations

from polku.bench.machine import describe, machine
from tests.bench.pairs import compare, options
from tests.bench.rows import at_least

PAIRS = (("two replicas of one", "slow_replicas", "slow"), ("two chained lanes of one", "slow_lanes", "slow_chained"))
WANTED = 1.8


def main() -> None:
    chosen = options(__doc__)
    print("| | events/s, two and one | ratio (≥ 1.8) | lost |")
    print("|---|---|---|---|")
    for name, two, one in PAIRS:
        found = compare(two, one, chosen.rounds, chosen.seconds)
        print(
            f"| {name} | {found.rates} | {found.ratio:.2f}, {at_least(found.ratio, WANTED)} | {found.lost} |",
            flush=True,
        )
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    main()
