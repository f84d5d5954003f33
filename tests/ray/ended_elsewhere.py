"""End processes of parts on other nodes, and print as JSON what health said of them, and after how long.

`python -m tests.ray.ended_elsewhere`: one node has a lane of its own, with several parts; another one a stage alone.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_memory_monitor_refresh_ms="0", RAY_worker_niceness="0")

import ray
from ray.cluster_utils import Cluster

from polku import Batch, Event, Hub, Pipeline
from tests.support.ray_forks import bare_nodes


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


def partner(batch: Batch) -> None:
    """Take everything."""


def end(pipeline: Pipeline, part: str) -> dict[str, Any]:
    """Kill the process of a part; return its number, the first that was said of it, and after how many seconds."""
    wait_until_well(pipeline)
    pid = pipeline.statistics().processes[part].pid
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while (told := pipeline.statistics().parts[part]).healthy:
        assert time.monotonic() - began < 60, part
        time.sleep(0.02)
    return {"pid": pid, "told": told.message, "advice": told.advice, "seconds": time.monotonic() - began}


def wait_until_well(pipeline: Pipeline) -> None:
    limit = time.monotonic() + 60
    while not all(part.healthy for part in pipeline.statistics().parts.values()):
        assert time.monotonic() < limit, pipeline.statistics().parts
        time.sleep(0.05)
    time.sleep(1.5)  # a look at what was started again, so that its process is watched


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=1, resources={"side": 1})
    ray.init(address=cluster.address, log_to_driver=False, namespace="application")
    found = {}
    with Hub(runtime="ray").lanes("per-node").middleware(mark).emitter(partner).start() as pipeline:
        there = "lane-2/" if "lane-2/ingest" in pipeline.statistics().processes else "lane-1/"
        for name in ("emitter:partner", "ingest"):
            found[name] = end(pipeline, f"{there}{name}")
    with Hub(runtime="ray").middleware(mark, resources={"side": 1}).emitter(partner).start() as pipeline:
        found["stage-1"] = end(pipeline, "stage-1")
    print(json.dumps(found), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    with bare_nodes():
        main()
