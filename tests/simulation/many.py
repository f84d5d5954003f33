"""Run the cases of many seeds, in several processes, and report those that break a promise."""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import gc
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from tests.simulation import known
from tests.simulation.generate import generate
from tests.simulation.run import run
from tests.simulation.shrink import kind_of, shrink

FAILED = Path(__file__).with_name("failed.jsonl")
_CHUNK = 20


def run_many(options: argparse.Namespace, known_features: frozenset[str]) -> int:
    """Run the cases of many seeds; return 1 where one breaks a promise."""
    total = Totals()
    began = time.perf_counter()
    limit = began + options.seconds if options.seconds else float("inf")
    for part in _results(_chunks(options, limit), known_features, options.jobs):
        total.add(part)
        for seed, kind, text, case in part.failed:
            _report(total, seed, kind, text, case, options.shrink)
    total.seconds = time.perf_counter() - began
    print(total)
    return 1 if total.failed else 0


def _chunks(options: argparse.Namespace, limit: float) -> Iterator[list[int]]:
    if options.seeds:
        first, _, last = options.seeds.partition("-")
        seeds: Iterator[int] = iter(range(int(first), int(last or first) + 1))
    else:
        seeds = count(int(time.time() * 1000) % 10**9 * 1000)  # fresh ones each time
    while time.perf_counter() < limit:
        chunk = [seed for _, seed in zip(range(_CHUNK), seeds, strict=False)]
        if not chunk:
            return
        yield chunk


def _results(chunks: Iterator[list[int]], known_features: frozenset[str], jobs: int) -> Iterator[Totals]:
    if jobs == 1:
        for chunk in chunks:
            yield run_seeds(chunk, known_features)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(run_seeds, chunk, known_features) for chunk, _ in zip(chunks, range(jobs), strict=False)}
        while running:
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            running |= {pool.submit(run_seeds, chunk, known_features) for _, chunk in zip(done, chunks, strict=False)}
            for future in done:
                yield future.result()


class Totals:
    """Count what was run, and keep what failed."""

    def __init__(self) -> None:
        self.cases = 0
        self.seconds = self.virtual = 0.0
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.failed: list[tuple[int, str, str, dict]] = []

    def add(self, other: Totals) -> None:
        self.cases += other.cases
        self.virtual += other.virtual
        self.counts.update(other.counts)
        self.kinds.update(other.kinds)
        self.failed += other.failed

    def __str__(self) -> str:
        rate = self.cases / max(self.seconds, 1e-9)
        lines = [
            f"{self.cases} cases in {self.seconds:.1f} s ({rate:.0f}/s), {self.virtual / 3600:.1f} virtual hours",
            ", ".join(f"{name} {number}" for name, number in sorted(self.counts.items())),
            "broken promises: " + (", ".join(f"{k} {n}" for k, n in self.kinds.most_common()) or "none"),
        ]
        return "\n".join(lines)


def run_seeds(seeds: Sequence[int], known_features: frozenset[str]) -> Totals:
    """Run the cases of some seeds."""
    total = Totals()
    _spare()
    for seed in seeds:
        case = generate(seed, known_features)
        result = run(case)
        total.cases += 1
        total.virtual += result.virtual
        total.counts.update(result.counts)
        faults = [fault for fault in result.faults if kind_of([fault]) not in known.KINDS]
        if faults:
            total.kinds[kind_of(faults)] += 1
            total.failed.append((seed, kind_of(faults), faults[0], case))
    gc.collect()
    return total


@functools.cache
def _spare() -> None:
    """Have the garbage collector look at nothing that stays: once, after a case that has imported everything."""
    run(generate(0))
    gc.collect()
    gc.freeze()


def _report(total: Totals, seed: int, kind: str, text: str, case: dict, seconds: float) -> None:
    """Print how to run a failing case again; the first two of each kind are made smaller."""
    print(f"python -m tests.simulation --seed {seed}  # {text[:300]}", flush=True)
    if seconds and [failed[1] for failed in total.failed].count(kind) <= 2:
        print_case(shrink(case, kind, seconds=seconds))


def print_case(case: dict) -> None:
    """Print the line that runs a case."""
    print(f"  python -m tests.simulation --trace --case '{json.dumps(case)}'", flush=True)
