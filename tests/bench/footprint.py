"""Private memory of `polku serve` after 500,000 events, and the time until it is ready.

    python -m tests.bench.footprint

Memory is RssAnon of the inline gateway, which forwards to a sink. Time runs from the start of the process to the line
that says `ready`; beside Ray's stands a bare `ray.init` with as many empty actors as the pipeline has.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.server import Server, environment

BARE_RAY = """
import ray
ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
@ray.remote(num_cpus=0)
class Empty:
    def ping(self): pass
actors = [Empty.remote() for _ in range(4)]
ray.get([actor.ping.remote() for actor in actors])
"""


def serve(folder: Path, runtime: str, **variables: str) -> tuple[Server, float]:
    """Start a gateway and return it with the seconds that it took."""
    started = time.perf_counter()
    server = Server(folder, "serve", POLKU_RUNTIME=runtime, POLKU_GRPC_ADDR="127.0.0.1:0", **variables)
    return server, time.perf_counter() - started


def private_megabytes(pid: int) -> float:
    """Return the RssAnon of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


def memory(folder: Path, events: int) -> tuple[float, float]:
    """Return the private megabytes of an inline gateway before and after so many events."""
    load = [sys.executable, "-m", "tests.bench.load"]
    sink = subprocess.Popen([*load, "sink", "--events", str(events)], stdin=-1, stdout=-1, text=True)
    assert sink.stdin
    assert sink.stdout
    server, _ = serve(folder, "inline", POLKU_EMIT_GRPC_ENDPOINTS=f"127.0.0.1:{sink.stdout.readline().strip()}")
    before = private_megabytes(server.process.pid)
    command = [*load, "generate", "--target", server.address, "--events", str(events)]
    subprocess.run(command, input="\n", text=True, check=True, stdout=subprocess.DEVNULL)
    sink.communicate("\n")
    after = private_megabytes(server.process.pid)
    server.stop()
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=500_000)
    options = parser.parse_args()
    ready: dict[str, list[float]] = {"inline": [], "ray": [], "bare ray": []}
    after = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for runtime in ("inline", "ray"):
                server, seconds = serve(Path(folder) / f"{runtime}{number}", runtime)
                ready[runtime].append(seconds)
                server.stop()
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", BARE_RAY], check=True, env=environment())
            ready["bare ray"].append(time.perf_counter() - started)
            before, later = memory(Path(folder) / f"memory{number}", options.events)
            after.append(later)
            print(f"private memory: {before:.1f} MB when ready, {later:.1f} MB after {options.events:,} events")
    for name, seconds_each in ready.items():
        print(f"ready, {name}: {statistics.median(seconds_each):.2f} s")
    print(f"private memory after {options.events:,} events: {statistics.median(after):.1f} MB (median)")


if __name__ == "__main__":
    main()
