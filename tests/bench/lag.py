"""What a dead destination costs the others: two gRPC sinks with and without a third that is never there.

    python -m tests.bench.lag --runtime inline --runtime ray --rounds 3

Both rows of a runtime take turns; the rate is that of the slower of the two living sinks. The buffer is durable, so the
dead one lags without bound by the others' rule. Each end takes half a minute with it: a drain waits for all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from polku.bench import Load, Result, Subject, measure

PIPELINE = """
import os, tempfile
from polku import BufferStrategy, Filter, GrpcEmitter, Hub, Transform
def mark(event): event.metadata["processed"] = "true"
def hub_with(*others):
    journal = os.path.join(tempfile.mkdtemp(dir=os.path.dirname(__file__)), "journal.db")
    hub = Hub().buffer_strategy(BufferStrategy.durable(journal))
    hub.middleware(Filter(lambda event: event.event_type.startswith("user."))).middleware(Transform(mark))
    for number in range(2):
        hub.emitter(GrpcEmitter(os.environ["POLKU_BENCH_SINK"], name=f"sink-{number}", source=f"sink-{number}"))
    for other in others:
        hub.emitter(other)
    return hub
alone = hub_with()
beside = hub_with(GrpcEmitter("http://127.0.0.1:9", name="dead"))  # the discard port: nobody is there
"""


def slower(result: Result) -> float:
    return min(emitter.delivered_per_s for name, emitter in result.emitters.items() if name != "dead")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", action="append", choices=["inline", "ray"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=300_000)
    options = parser.parse_args()
    print("| runtime | two sinks, events/s each | with a dead third | ratio | lost |")
    print("|---|---|---|---|---|")
    for runtime in options.runtime or ["inline", "ray"]:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            file = Path(folder) / "lag.py"
            file.write_text(PIPELINE)
            subjects = [Subject(file=f"{file}:{name}", runtime=runtime, keep=True) for name in ("alone", "beside")]
            load = Load(events=options.events)
            rounds = [[measure(subject, load) for subject in subjects] for _ in range(options.rounds)]
        alone, beside = (statistics.median(slower(pair[which]) for pair in rounds) for which in (0, 1))
        ratio = statistics.median(slower(pair[1]) / slower(pair[0]) for pair in rounds)
        lost = sum(result.lost or 0 for pair in rounds for result in pair)
        print(f"| {runtime} | {alone:,.0f} | {beside:,.0f} | {ratio:.2f} | {lost} |", flush=True)


if __name__ == "__main__":
    main()
