"""What it costs a pipeline to be watched: by a scraper, a page and `polku top`, and by a tap on everything.

    python -m tests.bench.watching --rounds 7 --events 400000

The stream row of the table (batches of 1,000, 32 in flight, Filter and Transform, a gRPC sink), in turns: with no admin
address, with one at which nobody looks, with a scraper once a second, an open page and `polku top`, and with all these
and a tap. Ratios are medians over the rounds, each against the run without an admin address of its round. Watchers are
processes of their own, and take CPU from the rest of a small machine: the CPU of the pipeline for an event says what
the pipeline itself pays. Memory is private memory right after the last event.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from polku.bench import Load, Subject
from polku.bench.machine import describe, machine
from polku.bench.trial import session
from tests.support.server import POLKU, environment

BARE, OPEN, WATCHED, TAPPED = "no admin address", "nobody looks", "scraper, page, top", "and a tap"
_MOST = {WATCHED: 0.01, TAPPED: 0.03}  # of the rate
_MEMORY_MB = 4.0


class Cost(NamedTuple):
    """Events a second, CPU microseconds an event, and private megabytes of the pipeline."""

    rate: float
    cpu_us: float
    memory_mb: float


def once(state: str, runtime: str, load: Load) -> Cost:
    """Measure the stream row once while it is watched so."""
    address = {} if state == BARE else {"POLKU_BENCH_ADMIN": "127.0.0.1:0"}
    with session(Subject(runtime=runtime, environment=address), load) as running:
        with watched(state, running.admin):
            before = running.usage()
            sent = running.send(load)
            after = running.usage()
        running.stop()
    parts = {name: used for name, used in after.items() if not name.startswith("others")}
    cpu = sum(used[0] - before.get(name, (0.0, 0))[0] for name, used in parts.items())
    rate = sent["acked"] / max(1e-9, sent["last"] - sent["first"])
    return Cost(rate, 1e6 * cpu / max(1, sent["acked"]), sum(used[1] for used in parts.values()) / 1e6)


@contextlib.contextmanager
def watched(state: str, address: str) -> Iterator[None]:
    """Have a pipeline watched: each watcher has seen something before this goes on."""
    commands = [[sys.executable, "-m", __spec__.name, "--watch", address], [*POLKU, "top", "--to", address]]
    if state == TAPPED:
        commands.append([*POLKU, "tap", "--to", address, "--format", "json"])
    processes = []
    try:
        for command in commands if state in (WATCHED, TAPPED) else []:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
            processes.append(process)
            assert process.stdout is not None
            if "tap" not in command:  # that one has nothing to show yet
                assert process.stdout.readline()
            threading.Thread(target=process.stdout.read, daemon=True).start()
        yield
        assert [process.poll() for process in processes] == [None] * len(processes)
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def watch(address: str) -> None:
    """Scrape an address once a second, and read the live page's stream; say so once both have answered."""

    def scrape() -> None:
        while True:
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                answer.read()
            scraped.set()
            threading.Event().wait(1.0)

    scraped = threading.Event()
    threading.Thread(target=scrape, daemon=True).start()
    with urllib.request.urlopen(f"http://{address}/events") as events:
        for line in events:
            if line.startswith(b"event: tick") and scraped.wait(30):
                print("watching", flush=True)
                break
        while events.read1(1 << 16):
            pass


def main() -> None:
    """Measure, and print a table; the exit status is 1 where something costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--runtime", default="inline", choices=("inline", "ray"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        watch(options.watch)
        return
    load, states = Load(events=options.events), (BARE, OPEN, WATCHED, TAPPED)
    found: dict[str, list[Cost]] = {state: [] for state in states}
    for number in range(options.rounds):
        for state in states if number % 2 == 0 else reversed(states):
            found[state].append(once(state, options.runtime, load))
            print(f"round {number + 1}, {state}: {found[state][-1]}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "found": found}))
    else:
        print("\n".join(table(found)))
        print(describe(machine()))
    sys.exit(bool(too_much(found)) and options.runtime == "inline")


def ratios(found: dict[str, list[Cost]], state: str) -> Cost:
    """Return the medians of what a state costs against the run without an admin address; memory as a difference."""
    pairs = list(zip(found[state], found[BARE], strict=True))
    return Cost(
        statistics.median(one.rate / bare.rate for one, bare in pairs),
        statistics.median(one.cpu_us / bare.cpu_us for one, bare in pairs),
        statistics.median(one.memory_mb - bare.memory_mb for one, bare in pairs),
    )


def table(found: dict[str, list[Cost]]) -> list[str]:
    """Return the medians and ratios as a Markdown table."""
    lines = [
        "| watched by | events/s | of the rate | CPU, µs/event | of the CPU | MB | more MB |",
        "|---|" + "---:|" * 6,
    ]
    for state, costs in found.items():
        medians = Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))
        against = ratios(found, state)
        lines.append(
            f"| {state} | {medians.rate:,.0f} | {against.rate:.3f} | {medians.cpu_us:.2f} | {against.cpu_us:.3f} "
            f"| {medians.memory_mb:.1f} | {against.memory_mb:+.1f} |"
        )
    return lines


def too_much(found: dict[str, list[Cost]]) -> list[str]:
    """Return what costs more than it may."""
    slow = [state for state, most in _MOST.items() if ratios(found, state).rate < 1 - most]
    return slow + [state for state in (OPEN, WATCHED) if ratios(found, state).memory_mb > _MEMORY_MB]


if __name__ == "__main__":
    main()
