"""Two pipelines on Ray that take turns, for `tests.bench.scaling` and `tests.bench.partitions`."""

from __future__ import annotations

import argparse
import statistics
from typing import NamedTuple

from polku.bench import Load, Subject, measure
from tests.bench.rows import FILE


class Compared(NamedTuple):
    """Medians of the two: delivered events a second, µs of CPU for an event, their ratio; and what is lost."""

    rates: str
    costs: str
    ratio: float
    lost: int


def options(description: str | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    return parser.parse_args()


def compare(first: str, second: str, rounds: int, seconds: float) -> Compared:
    """Measure two pipelines of `pipelines.py`, by name, in turns."""
    load = Load(seconds=seconds, connections=8)
    found = [
        [measure(Subject(file=f"{FILE}:{which}", runtime="ray"), load) for which in (first, second)]
        for _ in range(rounds)
    ]
    ratio = statistics.median(a.delivered_per_s / b.delivered_per_s for a, b in found)
    rates = ", ".join(f"{statistics.median(pair[place].delivered_per_s for pair in found):,.0f}" for place in (0, 1))
    costs = ", ".join(f"{statistics.median(pair[place].cpu_us_per_event for pair in found):.1f}" for place in (0, 1))
    return Compared(rates, costs, ratio, sum(result.lost or 0 for pair in found for result in pair))
