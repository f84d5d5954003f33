"""Private memory of an inline pipeline, and what Ray adds: memory of each actor and time until it is ready.

    python -m tests.bench.footprint
    python -m tests.bench.footprint --starts 20

Memory is RssAnon, right after the last event and at rest, some seconds later. Time runs from the start of the process
to the line that says `ready`; beside Ray's stands a bare `ray.init` with as many empty actors as the pipeline has.
`--starts` measures nothing but starts of an inline gateway.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from polku.bench import Load, Subject
from polku.bench.processes import usage
from polku.bench.trial import session
from tests.support.server import POLKU, Server, environment

TIMES = 4  # so many times the events, to see that memory stays flat
REST_SECONDS = 3.0
BARE_RAY = """
import json, re, time
started = time.perf_counter()
import ray
ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
@ray.remote(num_cpus=0)
class Empty:
    async def private(self):
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1000
actors = [Empty.remote() for _ in range(4)]
print(json.dumps({"each": ray.get([actor.private.remote() for actor in actors])}))
"""


def serve(folder: Path, runtime: str) -> tuple[float, float, float]:
    """Start a gateway, stop it, and return the seconds until it was ready, its megabytes then, and seconds of CPU."""
    started = time.perf_counter()
    variables = {"POLKU_GRPC_ADDR": "127.0.0.1:0", "POLKU_HTTP_ADDR": "127.0.0.1:0", "RAY_ADDRESS": "local"}
    server = Server(folder, "serve", command=POLKU, POLKU_RUNTIME=runtime, **variables)
    seconds = time.perf_counter() - started
    used = usage(server.process.pid)
    server.stop()
    assert used is not None
    return seconds, used.memory_bytes / 1e6, used.cpu_seconds


def bare_ray() -> tuple[float, float]:
    """Return the seconds that four empty actors take, and the megabytes of one."""
    started = time.perf_counter()
    command = [sys.executable, "-c", BARE_RAY]
    out = subprocess.run(command, check=True, env=environment(RAY_ADDRESS="local"), stdout=-1, text=True).stdout
    told = json.loads(out.splitlines()[-1])["each"]
    return time.perf_counter() - started, statistics.median(told)


def once(folder: Path, events: int) -> dict[str, float]:
    """Measure everything once."""
    folder.mkdir(exist_ok=True)
    found = {}
    for runtime in ("inline", "ray"):
        found[f"start {runtime}"], found[f"MB of the {runtime} gateway's process"], _ = serve(folder / runtime, runtime)
    found["start bare ray"], found["bare actor MB"] = bare_ray()
    for name, times in (("memory", 1), ("memory more", TIMES)):
        at_once, at_rest = memory_after(times * events, "inline")
        found[name], found[f"{name} at rest"] = at_once["pipeline"], at_rest["pipeline"]
    at_once, at_rest = memory_after(events, "ray")
    actors = [name for name in at_once if name != "driver" and not name.startswith("others")]
    found["actor MB"] = statistics.mean(at_once[name] for name in actors)
    found["actor MB at rest"] = statistics.mean(at_rest[name] for name in actors)
    return found


def starts(folder: Path, times: int) -> None:
    """Start an inline gateway several times, and print medians."""
    found = [serve(folder / str(number), "inline") for number in range(times)]
    for name, values in zip(("s until ready", "MB", "s of CPU"), zip(*found, strict=True), strict=True):
        print(f"{name}: {statistics.median(values):.3f} (from {min(values):.3f} to {max(values):.3f})")


def memory_after(events: int, runtime: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the megabytes of each part right after that many events, and after a rest."""
    load = Load(events=events)
    with session(Subject(runtime=runtime), load) as running:
        running.send(load)
        at_once = running.usage()
        time.sleep(REST_SECONDS)
        at_rest = running.usage()
        running.stop()
    return _megabytes(at_once), _megabytes(at_rest)


def _megabytes(usage: dict[str, Any]) -> dict[str, float]:
    return {name: memory / 1e6 for name, (_, memory) in usage.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=0, help="only start an inline gateway, this many times")
    parser.add_argument("--events", type=int, default=500_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.starts:
            starts(Path(folder), options.starts)
            return
        found = [once(Path(folder) / str(number), options.events) for number in range(options.rounds)]
    for name in found[0]:
        print(f"{name}: {statistics.median(one[name] for one in found):.2f}")


if __name__ == "__main__":
    main()
