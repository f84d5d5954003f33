"""What an event costs in one lane, and in each of two, four and eight: `python -m tests.cluster.lanes --rounds 3`.

All lanes are on this machine, and each is sent the same number of events a second, on connections of its own number:
there are not as many cores as lanes, so processor time is counted, and not how much could be done at once. Flat means
that a lane adds what it does itself and takes nothing from the others.

A second table says what each kind of process used: of lanes, of what they share (`--shape shared` has a `Deduplicator`
for all of them), of the supervisor, and of Ray.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from polku.bench import Load, Subject, measure
from polku.bench.machine import describe, machine
from polku.bench.result import PartResult

_LANES = (1, 2, 4, 8)
_CONNECTIONS = 8  # for each lane: the kernel spreads them over the lanes by chance
_WANTED = 0.10
_PIPELINE = """
import os

from polku import Deduplicator, Filter, GrpcEmitter, Hub, Transform


def is_about_users(event):
    return event.event_type.startswith("user.")


def mark(event):
    event.metadata["processed"] = "true"


hub = Hub(name="bench"){chain}.lanes({lanes})
hub = hub.middleware(Filter(is_about_users)).middleware(Transform(mark)){shared}
hub = hub.emitter(GrpcEmitter(os.environ["POLKU_BENCH_SINK"]))
"""


_SHAPES = {
    "chain": {"chain": ".chain()", "shared": ""},
    "apart": {"chain": "", "shared": ""},
    "shared": {"chain": ".chain()", "shared": ".middleware(Deduplicator())"},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.lanes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=20_000.0, help="events a second for each lane")
    parser.add_argument("--shape", choices=list(_SHAPES), default="chain")
    options = parser.parse_args()
    found: dict[int, list[Mapping[str, PartResult]]] = {lanes: [] for lanes in _LANES}
    with tempfile.TemporaryDirectory() as folder:
        for lanes in _LANES:
            text = _PIPELINE.format(lanes=lanes, **_SHAPES[options.shape])
            Path(folder, f"lanes_{lanes}.py").write_text(text)
        for _ in range(options.rounds):
            for lanes in _LANES:
                load = Load(seconds=options.seconds, rate=lanes * options.rate, connections=lanes * _CONNECTIONS)
                result = measure(Subject(file=f"{folder}/lanes_{lanes}.py", runtime="ray"), load)
                assert not result.lost, result
                found[lanes].append(result.parts)
                print(f"{lanes} lanes: {cost_of_lanes(result.parts):.2f} µs CPU/event", file=sys.stderr, flush=True)
    print("| lanes | µs CPU/event | of one lane's |\n|---|---|---|")
    one = statistics.median(map(cost_of_lanes, found[1]))
    for lanes in _LANES:
        cost = statistics.median(map(cost_of_lanes, found[lanes]))
        verdict = "" if abs(cost / one - 1) <= _WANTED else ", not flat"
        print(f"| {lanes} | {cost:.2f} | {cost / one:.2f}{verdict} |")
    print("\n| lanes | part | processes | µs CPU/event | MB |\n|---|---|---|---|---|")
    for lanes in _LANES:
        for row in rows(found[lanes]):
            print(f"| {lanes} | {row} |")
    print(f"\n{describe(machine())}")


def cost_of_lanes(parts: Mapping[str, PartResult]) -> float:
    """Return what the lanes' own processes cost: the supervisor's part is for the whole pipeline."""
    return sum(part.cpu_us_per_event for name, part in parts.items() if name.startswith("lane"))


def rows(rounds: list[Mapping[str, PartResult]]) -> list[str]:
    """Return a row for each kind of part: how many processes, and the medians of what all of these used."""
    kinds: dict[str, set[str]] = {}
    for name in (name for parts in rounds for name in parts):
        kinds.setdefault(_kind(name), set()).add(name)
    made = []
    for kind, names in kinds.items():
        used = [[parts[name] for name in names if name in parts] for parts in rounds]
        cpu = statistics.median(sum(part.cpu_us_per_event for part in parts) for parts in used)
        memory = statistics.median(sum(part.memory_mb for part in parts) for parts in used)
        made.append(f"{kind} | {len(names)} | {cpu:.2f} | {memory:.0f}")
    return made


def _kind(name: str) -> str:
    """Return what a part is, whichever lane, replica or partition it is of."""
    return re.sub(r"^lane-\d+/", "lane/", re.sub(r"^lane-\d+$", "lane", re.sub(r"-\d+$", "", name)))


if __name__ == "__main__":
    main()
