"""Compare; the rows of a table take turns within each round."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from polku.bench.machine import describe, machine
from tests.bench import peers
from tests.bench.peers.routers import Router, build_collector
from tests.bench.peers.trial import Measured, Overload, Shape, measure

_SHAPES = (Shape(1_000, 190, 600), Shape(1_000, 1_000, 200), Shape(10, 190, 15_000), Shape(10, 1_000, 10_000))
_ROWS = "which to measure: 1 to 4 are 1,000 of 190 B, 1,000 of 1 kB, 10 of 190 B, 10 of 1 kB; 5 is overload"
_OVERLOADED = Shape(1_000, 1_000, 0)
_OVERLOAD = Overload(taken=10_000, offered=40_000, seconds=15)


def routers(collector: str, cores: int, *, ray: bool = True) -> list[Router]:
    """Return what is compared on one core or two, on Ray too where that is wanted; the ratios are to the first."""
    found = []
    if collector:
        found.append(Router(name="Collector, synchronous", collector=collector))
        found.append(Router(name="Collector, with its queue", collector=collector, queue=True))
    found.append(Router(name="POLKU inline"))
    if cores > 1 and ray:
        found.append(Router(name="POLKU on Ray, two chained lanes", runtime="ray", environment={"PEERS_LANES": "2"}))
    return [replace(router, cores=cores) for router in found]


def compare(subjects: Sequence[Router], shape: Shape, rounds: int, overload: Overload | None = None) -> list[str]:
    """Measure all in turns; return the lines of a table, with ratios to the first within each round."""
    found: defaultdict[str, list[Measured]] = defaultdict(list)
    for _ in range(rounds):
        for router in subjects:
            found[router.name].append(measure(router, shape, overload))
    first = found[subjects[0].name]
    return [_line(name, runs, first) for name, runs in found.items()]


def _line(name: str, runs: Sequence[Measured], first: Sequence[Measured]) -> str:
    def median(field: str) -> float:
        return float(statistics.median(getattr(run, field) for run in runs))

    def ratio(field: str) -> float:
        pairs = zip(runs, first, strict=True)
        return float(statistics.median(getattr(one, field) / max(1e-9, getattr(other, field)) for one, other in pairs))

    lost, doubled = sum(run.lost for run in runs), sum(run.doubled for run in runs)
    cells = [
        name,
        f"{median('delivered'):,.0f} ({ratio('delivered'):.2f})",
        f"{median('cpu'):.1f} ({ratio('cpu'):.2f})",
        f"{median('rest') / 1e6:.0f} → {median('most') / 1e6:.0f}",
        f"{median('p99') * 1e3:.1f}",
        f"{lost:,}",
        f"{doubled:,}",
        f"{sum(run.refused for run in runs):,}",
    ]
    return f"| {' | '.join(cells)} |"


def _table(title: str, lines: Sequence[str]) -> None:
    print(f"\n{title}\n")
    print("| | delivered/s (÷ first) | µs CPU/record (÷ first) | private MB | p99, ms | lost | twice | refused |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(lines), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=peers.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="whether it works, in minutes: one round of a twentieth")
    parser.add_argument("--cores", type=int, choices=[1, 2], nargs="+", default=[2, 1])
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of each row")
    parser.add_argument("--rows", type=int, nargs="+", choices=range(1, 6), default=[1, 2, 3, 4, 5], help=_ROWS)
    parser.add_argument("--collector", default="", help="a Collector that is built already")
    options = parser.parse_args()
    overload = _OVERLOAD
    if options.quick:
        options.rounds, options.share, overload = 1, 0.05, _OVERLOAD._replace(seconds=2)
    with tempfile.TemporaryDirectory() as folder:
        collector = options.collector or build_collector(Path(folder))
        for cores in options.cores:
            for shape in [shape for row, shape in enumerate(_SHAPES, 1) if row in options.rows]:
                shorter = shape._replace(requests=max(1, int(shape.requests * options.share)))
                on_ray = not options.quick or shape is _SHAPES[0]  # each start of Ray takes longer than such a run
                lines = compare(routers(collector, cores, ray=on_ray), shorter, options.rounds)
                _table(f"Requests of {shape}, {'two cores' if cores > 1 else 'one core'}", lines)
        if len(_SHAPES) + 1 in options.rows:
            title = f"Four times what the sink takes ({overload.taken:,.0f} records/s), requests of {_OVERLOADED}"
            _table(title, compare(routers(collector, 2, ray=not options.quick), _OVERLOADED, 1, overload))
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    main()
