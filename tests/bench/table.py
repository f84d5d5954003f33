"""The whole table of targets: `make bench`, or `python -m tests.bench.table --rounds 5`.

All measurements of a round take turns; medians over the rounds are judged. `--quick` is a tenth of everything, to see
that it works: its numbers mean little. Results go to `tests/bench/results/`, as Markdown and JSON, with the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polku.bench import BenchError, Result, measure
from polku.bench.machine import describe, machine
from tests.bench import footprint, http_door, middleware, secured, sent
from tests.bench.rows import Cell, Line, at_least, at_most, latency_cells, latency_lines, rows, work_cells, work_lines

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "tests/bench/results"
_COST_NS = 2_000
_HTTP_SHARE, _TLS_SHARE = 0.6, 0.85
_KEPT = (
    "acked",
    "delivered",
    "lost",
    "duplicates",
    "reordered",
    "corrupted",
    "acked_per_s",
    "delivered_per_s",
    "accepted_ms",
    "end_to_end_ms",
    "cpu_us_per_event",
    "memory_mb",
)
"""What is written of each measurement."""


def in_turns(cells: Sequence[Cell], rounds: int, found: dict[str, list[Result]]) -> dict[str, str]:
    """Measure every cell once a round; return what failed, by key."""
    failed: dict[str, str] = {}
    unique = list({cell.key: cell for cell in cells}.values())
    for number in range(rounds):
        for cell in unique:
            if cell.key in failed:
                continue
            began = time.monotonic()
            try:
                result = measure(cell.subject, cell.load)
            except BenchError as error:
                failed[cell.key] = str(error)[-500:]
                print(f"{cell.key}: {error}", file=sys.stderr)
                continue
            found.setdefault(cell.key, []).append(result)
            print(
                f"round {number + 1}, {cell.key}: {result.acked_per_s:,.0f}/s, {result.cpu_us_per_event:.2f} µs, "
                f"lost {result.lost} ({time.monotonic() - began:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    return failed


def middleware_lines() -> list[Line]:
    found = asyncio.run(middleware.middleware_costs())
    lines = [
        Line(f"{name}, batch of 1,000", f"≤ {_COST_NS:,} ns", f"{cost:,.0f} ns", at_most(cost, _COST_NS))
        for name, cost in found.items()
    ]
    ingestors = middleware.ingestor_costs()
    return lines + [
        Line(f"{name}, 1,000 records", "reported", f"{cost:,.0f} ns", "") for name, cost in ingestors.items()
    ]


def footprint_lines(rounds: int, events: int) -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        found = [footprint.once(Path(folder) / str(number), events) for number in range(rounds)]
    median = {name: statistics.median(one[name] for one in found) for name in found[0]}
    after, more = median["memory at rest"], median["memory more at rest"]
    at_once = f"right after the last event {median['memory']:.1f} and {median['memory more']:.1f} MB"
    flat = f"{after:.1f} MB, {more:.1f} MB after {footprint.TIMES} times as many ({at_once})"
    actor = median["actor MB"] - median["bare actor MB"]
    inline = median["start inline"]
    start = median["start ray"] - median["start bare ray"]
    return [
        Line(f"private memory, inline, at rest after {events:,} events", "≤ 20 MB, flat", flat, at_most(after, 20.0)),
        Line("start of `polku serve`, inline", "≤ 0.25 s", f"{inline:.2f} s", at_most(inline, 0.25)),
        Line(
            "Ray: private memory of an actor, above an empty one",
            "reported",
            f"{actor:.1f} MB ({median['actor MB']:.1f} MB of {median['bare actor MB']:.1f} MB bare; "
            f"at rest {median['actor MB at rest']:.1f} MB)",
            "",
        ),
        Line(
            "Ray: from start to ready, above bare Ray with as many empty actors",
            "reported",
            f"{start:.1f} s ({median['start ray']:.1f} s of {median['start bare ray']:.1f} s)",
            "",
        ),
    ]


def http_lines(rounds: int, share: float) -> list[Line]:
    return [
        Line(
            f"HTTP: {name}, of a bare server",
            f"≥ {_HTTP_SHARE}",
            f"{ratio:.2f} ({ours.rate:,.0f}/s; {ours.cpu:.1f} of {bare_cpu:.1f} µs)",
            at_least(ratio, _HTTP_SHARE),
        )
        for name, (ours, ratio, bare_cpu) in http_door.compare(rounds, share).items()
    ]


def tls_lines(rounds: int, events: int) -> list[Line]:
    found = secured.compare([1_000, 10, 1], ["neither", "TLS"], 130, events, rounds)
    lines = []
    for size in (1_000, 10, 1):
        bare, tls = found[size, "neither"], found[size, "TLS"]
        share = secured.share_of(tls, bare)
        rates, costs = (
            " of ".join(f"{statistics.median(getattr(one, field) for one in each):,.{digits}f}" for each in (tls, bare))
            for field, digits in (("rate", 0), ("cpu", 2))
        )
        text = f"{share:.2f} ({rates} events/s; {costs} µs)"
        lines.append(
            Line(f"TLS: messages of {size:,}, of those without", f"≥ {_TLS_SHARE}", text, at_least(share, _TLS_SHARE))
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", help="only rows whose name contains this; repeatable")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder that they are written to")
    options = parser.parse_args()
    events, calls, most, seconds = (50_000, 2_000, 100_000, 2.0) if options.quick else (500_000, 40_000, 10**7, 20.0)
    share = 0.1 if options.quick else 1.0
    chosen = [row for row in [*rows(events, calls), *sent.table_rows(share)] if _wanted(row.name, options.only)]
    found: dict[str, list[Result]] = {}
    failed = in_turns([cell for row in chosen for cell in row.cells], options.rounds, found)
    lines: list[Line] = []
    for row in chosen:
        why = next((failed[cell.key] for cell in row.cells if cell.key in failed), "")
        lines += [Line(row.name, "", "", f"skipped: {why}")] if why else row.judge(found)
    half = latency_cells(found, seconds) if {"inline", "ray"} <= found.keys() else []
    if half and _wanted("latency", options.only) and not in_turns(half, options.rounds, found):
        lines += latency_lines(found)
    if _wanted("work", options.only):
        cells = work_cells(most)
        failed = in_turns(cells, 1, found)
        lines += work_lines(found, [cell for cell in cells if cell.key not in failed])
    if _wanted("HTTP", options.only):
        lines += http_lines(options.rounds, share * 0.3)
    if _wanted("TLS", options.only):
        lines += tls_lines(options.rounds, int(100_000 * share))
    if _wanted("middleware", options.only):
        lines += middleware_lines()
    if _wanted("footprint", options.only):
        lines += footprint_lines(1 if options.quick else min(3, options.rounds), events)
    write(lines, found, options.rounds, options.results / ("quick" if options.quick else "table"))


def write(lines: Sequence[Line], found: dict[str, list[Result]], rounds: int, path: Path) -> None:
    """Write the results, and print the table."""
    here = machine()
    command = shlex.join(["python", "-m", "tests.bench.table", *sys.argv[1:]])
    head = "| what | target | measured | |\n|---|---|---|---|\n"
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text = f"{head}{body}\nMedians of {rounds} rounds that took turns. {describe(here)}.\n\n`{command}`\n"
    everything: dict[str, Any] = {
        "command": command,
        "machine": here,
        "rounds": rounds,
        "lines": [line._asdict() for line in lines],
        "results": {key: [_numbers(result) for result in results] for key, results in found.items()},
    }
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".md").write_text(text)
    dumped = json.dumps(everything, ensure_ascii=False).replace(f"{PROJECT}/", "")
    path.with_suffix(".json").write_text(f"{dumped}\n")
    print(text)


def _numbers(result: Result) -> dict[str, Any]:
    """Return what one measurement found, without what was sent and over time."""
    found = asdict(result)
    return {name: found[name] for name in _KEPT}


def _wanted(name: str, only: Sequence[str] | None) -> bool:
    return not only or any(part in name for part in only)


if __name__ == "__main__":
    main()
