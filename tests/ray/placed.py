"""Start a pipeline on a cluster: `python -m tests.ray.placed FOLDER` prints as JSON which part is on which node."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.update(RAY_AUTH_MODE="disabled", RAY_memory_monitor_refresh_ms="0", RAY_worker_niceness="0")

import ray
from ray.cluster_utils import Cluster

from polku import BufferStrategy, Hub, new_event
from tests.ray.node_lost import mark, node_of
from tests.recorder import Recorder


def main(folder: Path) -> None:
    plain = {"num_cpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**plain, "node_ip_address": "127.0.0.1"})
    for number in (2, 3):
        cluster.add_node(num_cpus=2, node_ip_address=f"127.0.0.{number}", resources={f"side-{number}": 1})
    ray.init(address=cluster.address, log_to_driver=False, namespace="application")
    nodes = [cluster.head_node, *cluster.worker_nodes]
    hub = Hub(runtime="ray").buffer_strategy(BufferStrategy.durable(folder / "journal.db"))
    hub.middleware(mark).middleware(mark, resources={"side-3": 1}).emitter(Recorder(folder / "out"))
    pipeline = hub.start()
    assert pipeline.sender().send(new_event("x", source="a"), timeout=60).ok
    seen, _ = ray.get(pipeline._runtime.hub.sights.remote())  # type: ignore[attr-defined]
    where = {name: node_of(sight.vitals.pid, nodes).node_ip_address for name, sight in seen.items()}
    complete = pipeline.stop(30).complete
    print(json.dumps({"where": where, "complete": complete}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
