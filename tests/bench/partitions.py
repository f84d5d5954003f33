"""What two lanes deliver that share a Deduplicator: one stage for both, or two partitions.

    python -m tests.bench.partitions --rounds 3

On Ray, chained lanes, 8 connections, ids that are all new; the pipelines take turns, and medians are printed, of the
ratios those within a round. The second pair counts the ids of a function that takes 50 µs for an event.
"""

from __future__ import annotations

from polku.bench.machine import describe, machine
from tests.bench.pairs import compare, options

PAIRS = (
    ("Deduplicator", "seen_partitions", "seen_lanes"),
    ("50 µs of code by id", "slow_partitions", "slow_by_id"),
)


def main() -> None:
    chosen = options(__doc__)
    print("| shared by two lanes | events/s, partitions 2 and 1 | µs CPU/event | ratio | lost |")
    print("|---|---|---|---|---|")
    for name, two, one in PAIRS:
        found = compare(two, one, chosen.rounds, chosen.seconds)
        print(f"| {name} | {found.rates} | {found.costs} | {found.ratio:.2f} | {found.lost} |", flush=True)
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    main()
