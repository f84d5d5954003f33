"""Delivered events per second, CPU per event and losses, through Filter + Transform to a gRPC sink.

    python -m tests.bench.throughput --runtime inline --runtime ray --in-flight 8 --in-flight 32 --rounds 5

Generator, pipeline and sink are processes of their own on the same cores; the combinations take turns, and medians
over the rounds are printed; `+durable` puts a journal on disk in the middle, `+pass-through` leaves the middleware out.
`bare` is the same work with nothing around it, for comparison. CPU counts the pipeline alone (for Ray: its actors,
without Ray's own daemons). `polku bench` is the same for a pipeline of your own.
"""

from __future__ import annotations

import argparse
import sys

from polku.bench import Load, Result, Subject, Workload, measure
from polku.bench.comparison import summarise
from polku.bench.machine import describe, machine
from polku.bench.trial import BARE, BUILT_IN
from tests.bench.rows import FILE

RUNTIMES = {
    "bare": BARE,
    **{runtime: Subject(runtime=runtime) for runtime in ("inline", "ray")},
    **{f"{runtime}+durable": Subject(file=f"{FILE}:durable", runtime=runtime) for runtime in ("inline", "ray")},
    **{
        f"{runtime}+pass-through": Subject(file=f"{BUILT_IN}:pass_through", runtime=runtime)
        for runtime in ("inline", "ray")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--in-flight", action="append", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=130)
    options = parser.parse_args()
    workload = Workload(batch=options.batch, size=options.size)
    combinations = [(r, n) for r in options.runtime or ["inline", "ray"] for n in options.in_flight or [8, 32]]
    results: dict[tuple[str, int], list[Result]] = {combination: [] for combination in combinations}
    for _ in range(options.rounds):
        for runtime, in_flight in combinations:
            load = Load(workload=workload, events=options.events, in_flight=in_flight)
            result = measure(RUNTIMES[runtime], load)
            results[runtime, in_flight].append(result)
            rate, cpu = result.delivered_per_s, result.cpu_us_per_event
            print(f"{runtime} {in_flight}: {rate:,.0f}/s, {cpu:.2f} µs", file=sys.stderr, flush=True)
    print(describe(machine()))
    print("| runtime | in flight | events/s | µs CPU/event | lost | duplicated | reordered | corrupted |")
    print("|---|---|---|---|---|---|---|---|")
    for (runtime, in_flight), rounds in results.items():
        summary = summarise(rounds)
        counted = " | ".join(str(summary.counts[k]) for k in ("lost", "duplicates", "reordered", "corrupted"))
        rate, cpu = summary.medians["delivered_per_s"], summary.medians["cpu_us_per_event"]
        print(f"| {runtime} | {in_flight} | {rate:,.0f} | {cpu:.2f} | {counted} |")


if __name__ == "__main__":
    main()
