"""Run the cases of many seeds, in several processes, and report those that break a promise."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import gc
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tests.simulation import known
from tests.simulation.generate import generate
from tests.simulation.run import run
from tests.simulation.shrink import Case, breaks, kind_of, shrink

FAILED = Path(__file__).with_name("failed.jsonl")
CPU_SECONDS = 120.0
"""More than any case needs: one that takes as much computes without end, however slow the machine is."""

_CHUNK = 20
_SHOWN = 5  # faults of one case
_SHRINK_SECONDS = 60.0  # for all cases together
_ran: list[int] = []  # where the chunks begin that this process has run


def run_many(options: argparse.Namespace, known_features: frozenset[str]) -> int:
    """Run the cases of many seeds; return 1 where one breaks a promise."""
    total = Totals()
    began = time.perf_counter()
    limit = began + options.seconds if options.seconds else float("inf")
    for part in _results(_chunks(options, limit), known_features, options.jobs, limit):
        if part.failed and not total.failed:
            print(f"# {about()}", flush=True)
        total.add(part)
        for failure in part.failed:
            _report(total, failure, options.shrink)
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


def _results(chunks: Iterator[list[int]], known_features: frozenset[str], jobs: int, limit: float) -> Iterator[Totals]:
    work = functools.partial(run_seeds, known_features=known_features, limit=limit)
    if jobs == 1:
        yield from map(work, chunks)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(work, chunk) for chunk, _ in zip(chunks, range(jobs), strict=False)}
        while running:
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            running |= {pool.submit(work, chunk) for _, chunk in zip(done, chunks, strict=False)}
            for future in done:
                yield future.result()


class Failure(NamedTuple):
    """A case that broke a promise, and each that it broke; `first` is the first seed that its process ran."""

    seed: int
    first: int
    faults: Sequence[str]
    case: Case

    @property
    def kind(self) -> str:
        """What kind of promise it broke first."""
        return kind_of(self.faults)


class Totals:
    """Count what was run, and keep what failed."""

    def __init__(self) -> None:
        self.cases = 0
        self.seconds = self.virtual = self.shrinking = 0.0
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.failed: list[Failure] = []
        self.shrunk: Counter[str] = Counter()

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


def run_seeds(seeds: Sequence[int], known_features: frozenset[str], limit: float = float("inf")) -> Totals:
    """Run the cases of some seeds, until it is `limit` by `time.perf_counter`."""
    total = Totals()
    _spare()
    _ran.append(seeds[0])
    for seed in seeds:
        case = generate(seed, known_features)
        with watched(case):
            result = run(case)
        total.cases += 1
        total.virtual += result.virtual
        total.counts.update(result.counts)
        faults = [fault for fault in result.faults if kind_of([fault]) not in known.KINDS]
        if faults:
            total.kinds[kind_of(faults)] += 1
            total.failed.append(Failure(seed, _ran[0], faults, case))
        if time.perf_counter() > limit:
            break
    gc.collect()
    return total


@contextlib.contextmanager
def watched(case: Case) -> Iterator[None]:
    """End this process, and say where it was, if a case has not ended after `CPU_SECONDS` of computing."""

    def spins(number: int, frame: FrameType | None) -> None:
        print(f"# {about()}\nendless: a case computes for {CPU_SECONDS:g} s without an end")
        print_case(case)
        traceback.print_stack(frame, file=sys.stdout)
        sys.stdout.flush()
        os._exit(1)

    before = signal.signal(signal.SIGPROF, spins)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


@functools.cache
def _spare() -> None:
    """Have the garbage collector look at nothing that stays: once, after a case that has imported everything."""
    run(generate(0))
    gc.collect()
    gc.freeze()


def about() -> str:
    """Return what a case depends on besides its seed: the code, and what runs it."""
    root = FAILED.parents[2]
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        code = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        code = ""
    parts = [f"{name} {_version(name)}" for name in ("protobuf", "python-ulid")]
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return ", ".join([f"code {code or 'unknown'}", python, f"SQLite {sqlite3.sqlite_version}", *parts])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _report(total: Totals, failure: Failure, seconds: float) -> None:
    """Print what runs a failing case again: its seed, and itself; the first two of each kind are made smaller."""
    seed, kind, case = failure.seed, failure.kind, failure.case
    for fault in failure.faults[:_SHOWN]:
        print(f"python -m tests.simulation --seed {seed}  # {fault[:600]}", flush=True)
    if not seconds:
        return
    left = min(seconds, _SHRINK_SECONDS - total.shrinking)
    if left > 0 and total.shrunk[kind] < 2:
        began = time.perf_counter()
        total.shrunk[kind] += 1
        if breaks(kind, run(case).faults):
            case = shrink(case, kind, seconds=left)
        else:
            print(f"  # not so when it was run again: python -m tests.simulation --seeds {failure.first}-{seed}")
        total.shrinking += time.perf_counter() - began
    print_case(case)


def print_case(case: Case) -> None:
    """Print the line that runs a case."""
    print(f"  python -m tests.simulation --trace --case '{json.dumps(case)}'", flush=True)
