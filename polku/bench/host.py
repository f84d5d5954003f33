"""The process of the pipeline under measurement: `polku run`, with a second ear for questions about its processes.

A file's emitters are replaced by ones to the sink, under the same names and rules, so that no real destination gets
made-up events; a journal and a file of dead letters are replaced by empty ones beside them, and sources are left out,
so that nothing real is delivered to the sink. With `keep` the file runs as it is. `POLKU_BENCH_ADMIN` has the admin
address opened there, to measure what it costs to be watched.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from polku.bench.processes import usage_by_part
from polku.buffer.strategy import Kind
from polku.cli.load import load_hub
from polku.emit import GrpcEmitter
from polku.errors import PolkuError
from polku.gateway.addresses import Doors
from polku.monitoring.address import admin_of
from polku.picture import picture
from polku.plan import Plan
from polku.runner import Runner
from polku.runtime.serving import serve


def main(order: dict[str, Any]) -> None:
    """Run the pipeline until SIGTERM; questions come on standard input, answers go to the given descriptor."""
    answers = os.fdopen(order["answers"], "w", buffering=1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    hub = load_hub(order["file"], runtime=order["runtime"])
    plan = hub.plan(order["runtime"])
    with ExitStack() as stack:
        if not order["keep"]:
            plan = _towards(plan, order["sink"], stack)
        runner = Runner(plan, order["runtime"])
        threading.Thread(target=_answer, args=(runner, plan, answers), daemon=True).start()
        address = os.environ.get("POLKU_BENCH_ADMIN")
        serve(runner, Doors("127.0.0.1:0"), admin=admin_of(address, None) if address else None)
        report = runner.pipeline.stop()
    emitters = {name: each._asdict() for name, each in report.emitters.items()}
    print(json.dumps({"emitters": emitters, "complete": report.complete, "seconds": report.seconds}), file=answers)


def _towards(plan: Plan, sink: str, stack: ExitStack) -> Plan:
    """Return the plan with the sink in the place of every destination, and fresh files in the place of its own."""
    outlets = tuple(
        replace(outlet, emitter=GrpcEmitter(sink, name=outlet.name, source=outlet.name)) for outlet in plan.outlets
    )
    buffer, letters = plan.buffer, plan.dead_letters
    if buffer.kind is Kind.DURABLE:
        buffer = replace(buffer, path=_fresh(buffer.path, stack))
    if letters is not None:
        letters = replace(letters, path=_fresh(letters.path, stack))
    return replace(plan, sources=(), outlets=outlets, buffer=buffer, dead_letters=letters)


def _fresh(path: str, stack: ExitStack) -> str:
    """Return the path of a new file on the same disk, which goes at the end."""
    beside = next((str(folder) for folder in Path(path).absolute().parents if os.access(folder, os.W_OK)), None)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".polku-bench-", dir=beside))
    return f"{folder}/{Path(path).name}"


def _answer(runner: Runner, plan: Plan, answers: IO[str]) -> None:
    """Say where the gateway is, then answer each line of standard input with what the processes have used."""
    while True:
        try:
            address = runner.pipeline.address
            break
        except Exception:
            threading.Event().wait(0.01)  # it has not begun to start, or could not: then this process ends
    ready = {"address": address, "admin": runner.pipeline.admin_address or "", "picture": picture(plan)}
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        if line == "commits\n":
            print(json.dumps({"commits": _commits(runner)}), file=answers)
        else:
            print(json.dumps(usage_by_part(os.getpid(), parts_by_process(runner), "others (Ray)")), file=answers)


def parts_by_process(runner: Runner) -> dict[int, str]:
    """Return the names of the pipeline's parts by process."""
    if runner.runtime == "inline":
        return {os.getpid(): "pipeline"}
    import ray

    runtime: Any = runner.pipeline._runtime
    names: defaultdict[int, list[str]] = defaultdict(list)
    sights, _ = ray.get(runtime.supervisor.sights.remote())
    for name, sight in sights.items():
        if sight.vitals is not None:
            names[sight.vitals.pid].append(name)
    return {os.getpid(): "driver", **{pid: "+".join(sorted(parts)) for pid, parts in names.items()}}


def _commits(runner: Runner) -> int | None:
    """Return the transactions of an inline pipeline's journal."""
    runtime: Any = runner.pipeline._runtime
    log = getattr(getattr(getattr(runtime, "_lane", None), "_buffer", None), "_log", None)
    commits: int | None = getattr(log, "commits", None)
    return commits


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except PolkuError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
