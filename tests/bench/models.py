"""A real model behind a pipeline: events in groups against a call for each event.

    python -m tests.bench.models --events 20000 --rounds 3

The model is that of `examples/support_tickets` (WordLlama's embeddings and a classifier), the pipeline runs inline, and
its emitter confirms at once. As many senders as `--senders` says have one ticket each on its way and send the next one
when they are answered. Each run is a process of its own; they take turns, and medians are printed: events a second,
milliseconds from a send to its answer, how many events a call of the model had, and CPU of the process for an event.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polku import Batching, Event, Hub, new_event

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "support_tickets"
_SECONDS = 600  # for one run


def model() -> Any:
    """Return the model of the example, which has yet to be started."""
    spec = importlib.util.spec_from_file_location("support_tickets", EXAMPLE / "pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TicketModel(module.LABELLED)


class ForEach:
    """The same model, called for each event."""

    def __init__(self) -> None:
        self._model = model()

    def start(self) -> None:
        self._model.start()

    def process(self, events: list[Event]) -> list[Event]:
        for event in events:
            (answer,) = self._model.predict([event])
            event.metadata.update(answer)
        return events


ROLES = ("for each", "groups of 8", "groups of 64")


def hub(role: str) -> Hub:
    """Return the pipeline of a row."""
    built = Hub(runtime="inline")
    if role == "for each":
        built.middleware(ForEach(), name="model")
    else:
        size = int(role.rpartition(" ")[2])
        warm_up = new_event("ticket", payload=b"hello")
        built.middleware(model(), batching=Batching(max_events=size, max_wait=0.005, warm_up=warm_up), name="model")
    return built.emitter(lambda events: None, name="out")


def tickets(count: int) -> Iterator[Event]:
    """Yield tickets with the texts of the example, each a little different."""
    with (EXAMPLE / "labelled.csv").open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    for number in range(count):
        yield new_event("ticket", source="bench", payload=f"{texts[number % len(texts)]} ({number})".encode())


def measure(role: str, events: int, senders: int) -> dict[str, float]:
    """Run one row in this process."""
    waiting = list(tickets(events))
    latencies: list[float] = []

    async def send(pipeline: Any) -> None:
        sender = pipeline.sender()
        while waiting:
            event, began = waiting.pop(), time.perf_counter()
            assert (await sender.send_async(event)).ok
            latencies.append(time.perf_counter() - began)

    async def send_all(pipeline: Any) -> None:
        await asyncio.gather(*(send(pipeline) for _ in range(senders)))

    with hub(role).start() as pipeline:
        began, cpu = time.perf_counter(), time.process_time()
        asyncio.run(send_all(pipeline))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        calls = pipeline.statistics().lanes[0].stages["stage-1"].calls
    latencies.sort()
    return {
        "rate": events / seconds,
        "p50": latencies[len(latencies) // 2] * 1e3,
        "p99": latencies[len(latencies) * 99 // 100] * 1e3,
        "fill": 1.0 if calls is None else calls.fill * calls.max_events,
        "cpu": cpu / events * 1e6,
    }


def table(results: dict[str, Sequence[dict[str, float]]]) -> list[str]:
    """Return the medians of rounds, and the rate against the first row's in the same round."""
    lines = ["| the model is called | events/s | of the first | p50, p99 | events a call | µs CPU/event |"]
    lines.append("|---|---|---|---|---|---|")
    first = results[ROLES[0]]
    for role, rounds in results.items():
        of = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        ratio = statistics.median(one["rate"] / other["rate"] for one, other in zip(rounds, first, strict=True))
        times = f"{of['p50']:.1f}, {of['p99']:.1f} ms"
        cells = (role, f"{of['rate']:,.0f}", f"{ratio:.1f}", times, f"{of['fill']:.1f}", f"{of['cpu']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure all rows in turns, or one of them in this process."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.models", description=__doc__)
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--senders", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.role:
        print(json.dumps(measure(options.role, options.events, options.senders)))
        return
    results: dict[str, Sequence[dict[str, float]]] = {role: [] for role in ROLES}
    for _ in range(options.rounds):
        for role in ROLES:
            command = [sys.executable, "-m", "tests.bench.models", "--role", role]
            command += ["--events", str(options.events), "--senders", str(options.senders)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=_SECONDS)
            results[role] = [*results[role], json.loads(done.stdout.splitlines()[-1])]
            print(role, json.dumps(results[role][-1]), file=sys.stderr, flush=True)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
