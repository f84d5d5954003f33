"""What a dead destination costs the others: two gRPC sinks with and without a third that is never there.

    python -m tests.bench.lag --runtime inline --runtime ray --rounds 3

Both rows of a runtime take turns; the rate is that of the slower of the two living sinks. The buffer is durable, so the
dead one lags without bound by the others' rule.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

PIPELINE = """
import sys, os, tempfile
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
from polku import BufferStrategy, Filter, GrpcEmitter, Hub, Transform
def mark(event): event.metadata["processed"] = "true"
runtime, *ports = sys.argv[1:]
hub = Hub(runtime=runtime).buffer_strategy(BufferStrategy.durable(tempfile.mkdtemp() + "/journal.db"))
hub.middleware(Filter(lambda event: event.event_type.startswith("user."))).middleware(Transform(mark))
for number, port in enumerate(ports):
    hub.emitter(GrpcEmitter(f"http://127.0.0.1:{port}"), name=f"sink-{number}")
with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
    print(pipeline.address, flush=True)
    sys.stdin.readline()
    os._exit(0)  # the dead one would be waited for
"""

_DEAD = "9"  # the discard port: nobody is there
_PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def once(runtime: str, dead: bool, events: int) -> dict[str, Any]:
    """Run one round; return the rates of the living sinks and what they lack."""
    load = [sys.executable, "-m", "tests.bench.load"]
    sinks = [subprocess.Popen([*load, "sink", "--events", str(events)], **_PIPES) for _ in range(2)]
    ports = [sink.stdout.readline().strip() for sink in sinks]
    command = [sys.executable, "-c", PIPELINE, runtime, *ports, *([_DEAD] if dead else [])]
    pipeline = subprocess.Popen(command, **_PIPES)
    options = ["--target", pipeline.stdout.readline().strip(), "--events", str(events), "--batch", "1000"]
    generator = subprocess.Popen([*load, "generate", *options, "--in-flight", "32", "--payload", "40"], **_PIPES)
    generator.stdout.readline()
    generator.stdin.write("\n")
    generator.stdin.flush()
    generator.stdout.readline()
    got = []
    for sink in sinks:
        sink.stdin.write("\n")
        sink.stdin.flush()
        got.append(json.loads(sink.stdout.readline()))
    for process in (generator, *sinks, pipeline):
        process.communicate("\n", timeout=60)
    return {"rate": min(events / sink["seconds"] for sink in got), "lost": sum(sink["lost"] for sink in got)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", action="append", choices=["inline", "ray"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=300_000)
    options = parser.parse_args()
    print("| runtime | two sinks, events/s each | with a dead third | ratio | lost |")
    print("|---|---|---|---|---|")
    for runtime in options.runtime or ["inline", "ray"]:
        rounds = [[once(runtime, dead, options.events) for dead in (False, True)] for _ in range(options.rounds)]
        alone, beside = (statistics.median(pair[which]["rate"] for pair in rounds) for which in (0, 1))
        ratio = statistics.median(pair[1]["rate"] / pair[0]["rate"] for pair in rounds)
        lost = sum(result["lost"] for pair in rounds for result in pair)
        print(f"| {runtime} | {alone:,.0f} | {beside:,.0f} | {ratio:.2f} | {lost} |", flush=True)


if __name__ == "__main__":
    main()
