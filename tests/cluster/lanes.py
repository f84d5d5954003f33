"""What an event costs in one lane, and in each of two, four and eight: `python -m tests.cluster.lanes --rounds 3`.

All lanes are on this machine, and each is sent the same number of events a second, on connections of its own number:
there are not as many cores as lanes, so processor time is counted, and not how much could be done at once. Flat means
that a lane adds what it does itself and takes nothing from the others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from polku.bench import Load, Subject, measure
from polku.bench.machine import describe, machine

_LANES = (1, 2, 4, 8)
_CONNECTIONS = 8  # for each lane: the kernel spreads them over the lanes by chance
_WANTED = 0.10
_PIPELINE = """
import os

from polku import Filter, GrpcEmitter, Hub, Transform


def is_about_users(event):
    return event.event_type.startswith("user.")


def mark(event):
    event.metadata["processed"] = "true"


hub = Hub(name="bench").chain().lanes({lanes})
hub = hub.middleware(Filter(is_about_users)).middleware(Transform(mark))
hub = hub.emitter(GrpcEmitter(os.environ["POLKU_BENCH_SINK"]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.lanes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=20_000.0, help="events a second for each lane")
    options = parser.parse_args()
    costs: dict[int, list[float]] = {lanes: [] for lanes in _LANES}
    with tempfile.TemporaryDirectory() as folder:
        for lanes in _LANES:
            Path(folder, f"lanes_{lanes}.py").write_text(_PIPELINE.format(lanes=lanes))
        for _ in range(options.rounds):
            for lanes in _LANES:
                load = Load(seconds=options.seconds, rate=lanes * options.rate, connections=lanes * _CONNECTIONS)
                found = measure(Subject(file=f"{folder}/lanes_{lanes}.py", runtime="ray"), load)
                assert not found.lost, found
                # The supervisor's part is for the whole pipeline; what a lane costs is its own process.
                own = [part.cpu_us_per_event for name, part in found.parts.items() if name.startswith("lane")]
                costs[lanes].append(sum(own))
                print(f"{lanes} lanes: {sum(own):.2f} µs CPU/event", file=sys.stderr, flush=True)
    print("| lanes | µs CPU/event | of one lane's |\n|---|---|---|")
    one = statistics.median(costs[1])
    for lanes in _LANES:
        cost = statistics.median(costs[lanes])
        verdict = "" if abs(cost / one - 1) <= _WANTED else ", not flat"
        print(f"| {lanes} | {cost:.2f} | {cost / one:.2f}{verdict} |")
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    main()
