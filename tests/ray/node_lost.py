"""Lose a node of a Ray cluster under load: `python -m tests.ray.node_lost FOLDER` prints what came of it as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_memory_monitor_refresh_ms="0", RAY_worker_niceness="0")

import ray
from ray.cluster_utils import Cluster

from polku import Event, Hub
from polku.testing import Oracle
from tests.support.ray_forks import bare_nodes
from tests.support.recorder import Recorder

QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


def node_of(pid: int, nodes: list[Any]) -> Any:
    """Return the node whose raylet is an ancestor of a process."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    while pid > 1 and pid not in raylets:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return raylets[pid]


class Sender(threading.Thread):
    """Send batches one after the other until told to stop; what fails is sent again."""

    def __init__(self, sender: Any, oracle: Oracle) -> None:
        super().__init__(daemon=True)
        self.sender, self.oracle = sender, oracle
        self.stop = threading.Event()
        self.acknowledged = 0

    def run(self) -> None:
        while not self.stop.is_set():
            events = self.oracle.events("a", 50)
            receipt = self.sender.send(events, timeout=120)
            assert not receipt.refused, receipt.refused
            self.oracle.acknowledged(receipt.event_ids)
            self.acknowledged += len(receipt.event_ids)

    def wait_for(self, more: int, timeout: float) -> float:
        started, goal = time.monotonic(), self.acknowledged + more
        while self.acknowledged < goal:
            assert self.is_alive(), "the sender has ended"
            assert time.monotonic() - started < timeout, f"{self.acknowledged} of {goal} acknowledged"
            time.sleep(0.01)
        return time.monotonic() - started


def main(folder: Path) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "_system_config": QUICK, "resources": {"head": 9}},
    )
    sides = [cluster.add_node(num_cpus=1, resources={"side": 1}) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, namespace="application")
    recorder, oracle = Recorder(folder / "out"), Oracle(["recorder"])
    hub = Hub(runtime="ray").middleware(mark, resources={"side": 1}).emitter(recorder)
    pipeline = hub.start()
    sender = Sender(pipeline.sender(), oracle)
    sender.start()
    sender.wait_for(1_000, 120)
    seen, _ = ray.get(pipeline._runtime.supervisor.sights.remote())  # type: ignore[attr-defined]
    victim = node_of(seen["stage-1"].vitals.pid, sides)
    os.kill(victim.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    pause = sender.wait_for(2_000, 120)
    sender.stop.set()
    sender.join(60)
    report = pipeline.stop(30)
    oracle.delivered("recorder", recorder.events())
    verdict = oracle.verdict()
    print(json.dumps({"verdict": verdict._asdict(), "complete": report.complete, "pause": pause}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    with bare_nodes():
        main(Path(sys.argv[1]))
