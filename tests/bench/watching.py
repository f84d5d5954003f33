"""What it costs a pipeline to be watched: by a scraper, a page and `polku top`, and by a tap on everything.

    python -m tests.bench.watching --rounds 40 --events 400000

The stream row of the table (batches of 1,000, 32 in flight, Filter and Transform, a gRPC sink). One pipeline is sent
events in short turns, in a new order each round: while nobody looks, with a scraper once a second, an open page and
`polku top`, with these and a tap, and while the same watchers look at another pipeline, which does nothing. That last
state shows what watchers cost by being there: they take CPU from the rest of a small machine, and a CPU that shares its
core with them does less in the same time. Beside them a pipeline without an admin address has its turns; all are
started again every few rounds.

Most of it does not grow with the events: that is measured first, as the CPU that a pipeline without events takes
in a second. What the pipeline itself pays is the CPU of its process for an event. Ratios are geometric means over
the rounds, each against the same pipeline while nobody looks in the same round, with their 95 % intervals: a claim
is shown where its limit is outside. Memory is private memory right after the last event.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from polku.bench import Load, Subject
from polku.bench.machine import describe, machine
from polku.bench.trial import Session, session
from tests.support.server import POLKU, environment

BARE, OPEN, ELSEWHERE = "no admin address", "nobody looks", "scraper, page, top: at another one"
WATCHED, TAPPED = "scraper, page, top", "and a tap"
STATES = (BARE, OPEN, ELSEWHERE, WATCHED, TAPPED)
_MOST = {WATCHED: 0.01, TAPPED: 0.03}  # of the CPU for an event, against the state before
_AGAINST = {WATCHED: ELSEWHERE, TAPPED: WATCHED}
_MEMORY_MB = 4.0


class Cost(NamedTuple):
    """Events a second, CPU microseconds an event, and private megabytes of the pipeline."""

    rate: float
    cpu_us: float
    memory_mb: float


class Interval(NamedTuple):
    """A mean, and between what it is with 95 % confidence."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


class Pipelines(NamedTuple):
    """Those that have an admin address and are sent events or not, and one that has none."""

    watched: Session
    idle: Session
    bare: Session


@contextlib.contextmanager
def pipelines(runtime: str, load: Load) -> Iterator[Pipelines]:
    """Start the pipelines, and send each some events before anything is measured."""
    with contextlib.ExitStack() as stack:
        address = {"POLKU_BENCH_ADMIN": "127.0.0.1:0"}
        started = [
            stack.enter_context(session(Subject(runtime=runtime, environment=environment), load))
            for environment in (address, address, {})
        ]
        for one in started:
            one.send(load)
        yield Pipelines(*started)
        for one in started:
            one.stop()


def once(state: str, those: Pipelines, load: Load) -> Cost:
    """Measure the stream row once while it is watched so."""
    running = those.bare if state == BARE else those.watched
    with watched(state, (those.idle if state == ELSEWHERE else those.watched).admin):
        before = running.usage()
        sent = running.send(load)
        after = running.usage()
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
        for command in commands if state in (ELSEWHERE, WATCHED, TAPPED) else []:
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


def resting(runtime: str, load: Load, seconds: float) -> dict[str, float]:
    """Return for how many milliseconds of a second a pipeline without events works, by who looks."""
    found = {}
    with pipelines(runtime, load) as those:
        for state in (OPEN, WATCHED, TAPPED):
            with watched(state, those.watched.admin):
                before, began = _cpu(those.watched), time.monotonic()
                time.sleep(seconds)
                found[state] = 1e3 * (_cpu(those.watched) - before) / (time.monotonic() - began)
    return found


def _cpu(running: Session) -> float:
    """Return the CPU seconds of all parts so far."""
    used: dict[str, tuple[float, int]] = running.usage()
    return sum(each[0] for name, each in used.items() if not name.startswith("others"))


def measure(rounds: int, renew: int, runtime: str, load: Load) -> dict[str, list[Cost]]:
    """Return what each state cost in each round; the pipelines are started again after every `renew` rounds."""
    found: dict[str, list[Cost]] = {state: [] for state in STATES}
    for first in range(0, rounds, renew):
        with pipelines(runtime, load) as those:
            for number in range(first, min(first + renew, rounds)):
                for state in random.sample(STATES, len(STATES)):
                    found[state].append(once(state, those, load))
                    print(f"round {number + 1}, {state}: {found[state][-1]}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, and print a table; the exit status is 1 where something is shown to cost more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--renew", type=int, default=5, help="start the pipelines again after that many rounds")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--runtime", default="inline", choices=("inline", "ray"))
    parser.add_argument("--rest", type=float, default=10.0, metavar="SECONDS", help="without events, for each state")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        watch(options.watch)
        return
    load = Load(events=options.events)
    rest = resting(options.runtime, load, options.rest)
    found = measure(options.rounds, options.renew, options.runtime, load)
    if options.json:
        print(json.dumps({"machine": machine(), "resting": rest, "found": found}))
    else:
        print("\n".join([*(f"without events, {state}: {ms:.1f} ms of CPU a second" for state, ms in rest.items()), ""]))
        print("\n".join([*table(found), "", *verdicts(found)]))
        print(describe(machine()))
    sys.exit(bool(too_much(found)) and options.runtime == "inline")


def ratio(found: dict[str, list[Cost]], state: str, against: str, field: str) -> Interval:
    """Return what a state costs in terms of another one of the same round."""
    pairs = zip(found[state], found[against], strict=True)
    return interval([math.log(getattr(one, field) / getattr(other, field)) for one, other in pairs])


def interval(logarithms: list[float]) -> Interval:
    """Return the geometric mean, and its 95 % interval by Student's t distribution (its quantile to 1 % from 4 on)."""
    mean, count = statistics.fmean(logarithms), len(logarithms)
    if count < 2:
        return Interval(math.exp(mean), 0.0, math.inf)
    quantile = 1.96 + 2.37 / (count - 1) + 2.82 / (count - 1) ** 2
    spread = quantile * statistics.stdev(logarithms) / math.sqrt(count)
    return Interval(math.exp(mean), math.exp(mean - spread), math.exp(mean + spread))


def more_memory(found: dict[str, list[Cost]], state: str) -> float:
    """Return the megabytes that a state takes more than one without an admin address, in the median."""
    pairs = zip(found[state], found[BARE], strict=True)
    return statistics.median(one.memory_mb - bare.memory_mb for one, bare in pairs)


def table(found: dict[str, list[Cost]]) -> list[str]:
    """Return the medians and ratios as a Markdown table."""
    lines = [
        "| watched by | events/s | of the rate (95 %) | CPU, µs/event | of the CPU (95 %) | MB | more MB |",
        "|---|" + "---:|" * 6,
    ]
    for state, costs in found.items():
        medians = Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))
        rate, cpu = (ratio(found, state, OPEN, field) for field in ("rate", "cpu_us"))
        lines.append(
            f"| {state} | {medians.rate:,.0f} | {rate} | {medians.cpu_us:.2f} | {cpu} "
            f"| {medians.memory_mb:.1f} | {more_memory(found, state):+.1f} |"
        )
    return lines


def verdicts(found: dict[str, list[Cost]]) -> list[str]:
    """Return of each claim whether it is shown: what a state adds to the CPU for an event."""
    lines = []
    for state, most in _MOST.items():
        cpu = ratio(found, state, _AGAINST[state], "cpu_us")
        is_shown = "shown" if cpu.high < 1 + most else "refuted" if cpu.low > 1 + most else "neither shown nor refuted"
        text = f"{cpu.mean - 1:+.1%} CPU an event ({cpu.low - 1:+.1%} to {cpu.high - 1:+.1%}) against"
        lines.append(f"{state}: {text} {_AGAINST[state]!r}; less than {most:.0%} is {is_shown}")
    return lines


def too_much(found: dict[str, list[Cost]]) -> list[str]:
    """Return what is shown to cost more than it may."""
    slow = [state for state, most in _MOST.items() if ratio(found, state, _AGAINST[state], "cpu_us").low > 1 + most]
    return slow + [state for state in (OPEN, WATCHED) if more_memory(found, state) > _MEMORY_MB]


if __name__ == "__main__":
    main()
