"""Lanes by need on several nodes, which are lost and drained under load: `python -m tests.ray.spread FOLDER`.

Prints what came of it as JSON. Every node is a Ray of its own on this machine, with an address of the loopback network.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_memory_monitor_refresh_ms="0", RAY_worker_niceness="0")

import ray
from ray import _raylet as raylet
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from polku import Hub, Pipeline
from polku.testing import Oracle
from tests.ray.node_lost import QUICK, mark
from tests.ray.test_scaling import Load
from tests.support.ray_forks import bare_nodes
from tests.support.recorder import Recorder

SIDES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


def wait_until(condition: Callable[[], bool], timeout: float = 90) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout, "never came to be"
        time.sleep(0.2)


def nodes_of(pipeline: Pipeline) -> list[str]:
    """Return the addresses of the nodes of lanes that take events, in the order in which the lanes came."""
    return [lane.address for lane in pipeline._runtime.parts.taking]  # type: ignore[attr-defined]


def drain(address: str) -> None:
    """Have Ray drain the node of an address, as before its machine is taken away."""
    node = next(each["NodeID"] for each in ray.nodes() if each["Alive"] and each["NodeManagerAddress"] == address)
    deadline = int((time.time() + 60) * 1000)
    cluster: Any = raylet
    client = cluster.GcsClient(ray.get_runtime_context().gcs_address)
    reasons: Any = autoscaler_pb2
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node, reason, "a test", deadline)
    assert accepted, why


def main(folder: Path) -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "_system_config": QUICK}
    )
    two = cluster.add_node(num_cpus=1, node_ip_address=SIDES[0])
    cluster.add_node(num_cpus=1, node_ip_address=SIDES[1])
    cluster.add_node(num_cpus=0, node_ip_address="127.0.0.9")  # one without CPUs has no lane
    ray.init(address=cluster.address, log_to_driver=False, namespace="application")
    recorder, oracle = Recorder(folder / "out"), Oracle(["recorder"], ordered=())
    hub = Hub(runtime="ray").ack("delivered").chain().lanes(min=2, max=3, spread=True).middleware(mark)
    pipeline = hub.emitter(recorder).start(grpc_addr="0.0.0.0:0")
    head, *others = nodes_of(pipeline)
    found: dict[str, object] = {"first": others}
    with Load(pipeline, oracle, "c", 6, patient=True) as load:
        load.until(lambda: load.acked > 50)
        asyncio.run(pipeline.scale(3))
        found["third"] = nodes_of(pipeline)[2]
        load.until(lambda: load.acked > 100)
        asyncio.run(pipeline.scale(2))
        wait_until(lambda: len(pipeline.statistics().lanes) == 2)
        found["left"] = nodes_of(pipeline)[1:]
        os.kill(two.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        wait_until(lambda: nodes_of(pipeline) == [head, SIDES[1]])
        load.until(lambda: pipeline.statistics().scales[0].number == 2, go_on=50)
        cluster.add_node(num_cpus=1, node_ip_address=SIDES[2])
        drain(SIDES[1])
        wait_until(lambda: nodes_of(pipeline) == [head, SIDES[2]])
        wait_until(lambda: [lane.node for lane in pipeline.statistics().lanes] == [head, SIDES[2]])
        load.until(lambda: pipeline.statistics().scales[0].number == 2, go_on=50)
    wait_until(lambda: pipeline.health().healthy)
    found["scales"] = [scale.failures for scale in pipeline.statistics().scales]
    report = pipeline.stop(30)
    oracle.delivered("recorder", recorder.events())
    print(json.dumps({"verdict": oracle.verdict()._asdict(), "complete": report.complete, **found}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    with bare_nodes():
        main(Path(sys.argv[1]))
