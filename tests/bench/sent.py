"""What people send: a cluster and a source on the message, some metadata, small messages and large payloads.

    python -m tests.bench.sent --rounds 5

`make bench` has the same rows.
All rows take turns within a round. The first two differ in the cluster alone: what it costs to fill it in. CPU counts
the pipeline alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from polku.bench import Load, Result, Subject, Workload, measure
from polku.bench.machine import describe, machine
from polku.bench.trial import BARE
from tests.bench import rows as table
from tests.bench.rows import FILE, Cell

_FRAME = 175  # bytes of an event beside its payload
_NAMED = {"cluster": "prod-eu", "source": "shop", "metadata": 3}
_LARGE = 16 * 1024
_CLUSTER_US = 0.3  # that it may cost an event
_MOST_BYTES = 60_000_000  # that a row sends


class Row(NamedTuple):
    """One measurement."""

    name: str
    subject: Subject
    load: Load


def _row(name: str, subject: Subject, payload: int, batch: int, events: int, connections: int = 1) -> Row:
    workload = Workload(batch=batch, size=payload + _FRAME, unary=batch == 1, **_NAMED)  # type: ignore[arg-type]
    count = max(batch, min(events, _MOST_BYTES // (payload + _FRAME)))
    in_flight = max(connections, 4 if payload * batch > 4_000_000 else 32)
    return Row(name, subject, Load(workload=workload, events=count, in_flight=in_flight, connections=connections))


def rows(runtime: str, share: float) -> list[Row]:
    """Return what is measured, with a share of the events of a whole run."""
    plain = Subject(runtime=runtime)
    stream, small, unary = int(300_000 * share), int(50_000 * share), int(20_000 * share)
    without = Workload(size=130 + _FRAME, source="shop", metadata=3)
    made = [
        Row("batches of 1,000, without a cluster", plain, Load(workload=without, events=stream)),
        _row("batches of 1,000, cluster", plain, 130, 1_000, stream),
        _row("a bare relay, the same", BARE, 130, 1_000, stream),
    ]
    for payload in (1_024, _LARGE):
        batch = 1_000 if payload < _LARGE else 100
        made.append(_row(f"batches of {batch:,}, payload {payload:,} B", plain, payload, batch, stream))
        made.append(_row(f"a bare relay, payload {payload:,} B", BARE, payload, batch, stream))
    for batch in (100, 10):
        made.append(_row(f"messages of {batch}", plain, 130, batch, small))
    made.append(_row("a bare relay, messages of 10", BARE, 130, 10, small))
    for connections in (1, 8, 64):
        made.append(_row(f"unary, {connections} connections", plain, 130, 1, unary, connections))
    for name, label in (("doubled", "two emitters"), ("routed", "Deduplicator and Router"), ("durable", "durable")):
        subject = Subject(file=f"{FILE}:{name}", runtime=runtime)
        made.append(_row(f"batches of 1,000, {label}", subject, 130, 1_000, stream))
    return made


def table_rows(share: float) -> list[table.Row]:
    """Return the rows of the table of targets: each of these inline, and what a cluster costs."""
    cells = [Cell(f"sent: {row.name}", row.subject, row.load) for row in rows("inline", share)]
    cost = table.costs_more("sent: a cluster on the message, an event", cells[1], cells[0], _CLUSTER_US)
    return [cost, *(table.reported(cell.key, cell) for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sent", description=__doc__)
    parser.add_argument("--runtime", default="inline", choices=["inline", "ray"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the events of each row")
    options = parser.parse_args()
    measured: defaultdict[str, list[Result]] = defaultdict(list)
    for number in range(options.rounds):
        for row in rows(options.runtime, options.share):
            result = measure(row.subject, row.load)
            measured[row.name].append(result)
            print(f"round {number + 1}, {row.name}: {result.acked_per_s:,.0f}/s", file=sys.stderr, flush=True)
    print(
        f"| {options.runtime} | acknowledged/s | µs CPU/event | p50, p99 ms | lost | twice |\n|---|---|---|---|---|---|"
    )
    for name, results in measured.items():
        print(_line(name, results))
    print(f"\n{describe(machine())}")


def _line(name: str, results: Sequence[Result]) -> str:
    rate = statistics.median(result.acked_per_s for result in results)
    cpu = statistics.median(result.cpu_us_per_event for result in results)
    p50, p99 = (statistics.median(result.accepted_ms.get(p) or 0.0 for result in results) for p in ("p50", "p99"))
    lost = sum(result.lost or 0 for result in results)
    doubled = sum(result.duplicates for result in results)
    return f"| {name} | {rate:,.0f} | {cpu:.2f} | {p50:.1f}, {p99:.1f} | {lost} | {doubled} |"


if __name__ == "__main__":
    main()
