"""What a byte of a payload costs, in ns of CPU, in each process of a pipeline.

    python -m tests.bench.per_byte --rounds 3

Messages of ten events are sent with a small payload and with a large one, in turns: what the large ones cost more,
divided by the bytes that they have more, is the cost of a byte, without that of an event. CPU is the process's own,
user's and system's, so that the copies between it and its sockets count too. `tests.bench.copies` counts the copies.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

from polku.bench import Load, Result, Subject, Workload, measure
from polku.bench.machine import describe, machine
from polku.bench.trial import BARE, BUILT_IN
from tests.bench.native_relay import NATIVE_RELAY
from tests.bench.rows import FILE

_BATCH, _IN_FLIGHT = 10, 8
_NAMES = 130  # bytes of an event without its payload, about
_LANE = {"BENCH_LANES": "1"}

SUBJECTS: Mapping[str, Subject] = {
    "inline": Subject(),
    "inline, no middleware": Subject(file=f"{BUILT_IN}:pass_through"),
    "inline, durable": Subject(file=f"{FILE}:durable"),
    "Ray, four actors": Subject(runtime="ray"),
    "Ray, a chained lane": Subject(file=f"{FILE}:chained", runtime="ray", environment=_LANE),
    "a bare relay on grpc.aio": BARE,
    "a bare relay on the same server": NATIVE_RELAY,
}


def load_of(payload: int, events: int) -> Load:
    """Return what is sent."""
    workload = Workload(batch=_BATCH, size=payload + _NAMES, cluster="prod-eu", metadata=3)
    return Load(workload=workload, events=events, in_flight=_IN_FLIGHT)


def cost(small: Sequence[Result], large: Sequence[Result], bytes_more: int) -> dict[str, float]:
    """Return ns a byte of each process, from medians over the rounds; Ray's own processes are together."""
    return {
        part: (_median(large, part) - _median(small, part)) * 1e3 / bytes_more
        for part in large[0].parts
        if part != "driver"
    }


def _median(results: Sequence[Result], part: str) -> float:
    return statistics.median(result.parts[part].cpu_us_per_event for result in results if part in result.parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.per_byte", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=6_000)
    parser.add_argument("--payloads", type=int, nargs=2, default=[1_000, 16_000], metavar=("SMALL", "LARGE"))
    parser.add_argument("--only", action="append", help="only those whose name contains this; repeatable")
    options = parser.parse_args()
    chosen = [name for name in SUBJECTS if not options.only or any(part in name for part in options.only)]
    found: defaultdict[tuple[str, int], list[Result]] = defaultdict(list)
    for number in range(options.rounds):
        for name in chosen:
            for payload in options.payloads:
                result = measure(SUBJECTS[name], load_of(payload, options.events))
                found[name, payload].append(result)
                print(f"round {number + 1}, {name}, {payload} B: {result.parts}", file=sys.stderr, flush=True)
    small, large = options.payloads
    print("| | process | ns a byte |\n|---|---|---|")
    for name in chosen:
        for part, each in cost(found[name, small], found[name, large], large - small).items():
            print(f"| {name} | {part} | {each:.2f} |")
    lost = sum(result.lost or 0 for results in found.values() for result in results)
    print(f"\nMedians of {options.rounds} rounds, {lost} events lost. {describe(machine())}")


if __name__ == "__main__":
    main()
