"""A lane on every node, and a node that is lost under load: `python -m tests.ray.per_node FOLDER back|gone`.

Prints what came of it as JSON. With `back` a node joins too, and the lost one comes back. Every node is a Ray of its
own on this machine, with an address of the loopback network.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_memory_monitor_refresh_ms="0", RAY_worker_niceness="0")

import grpc
import ray
from ray.cluster_utils import Cluster

from polku import BufferStrategy, Deduplicator, Hub, Pipeline
from polku.buffer.journal import Journal
from polku.testing import Oracle
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch
from tests.ray.node_lost import QUICK, Sender, mark, node_of
from tests.recorder import Recorder

LOST = "127.0.0.2"


class Client:
    """Send over the gateway's port until a certain lane has had so many events: the kernel chooses among the lanes."""

    def __init__(self, address: str, oracle: Oracle) -> None:
        self.address, self.oracle = address, oracle

    def reach(self, pipeline: Pipeline, lane: str, more: int = 20) -> None:
        goal = received(pipeline, lane) + more
        for attempt in range(200):
            events = self.oracle.events(f"client-{attempt}-{time.time_ns()}", 20)
            with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = gateway_pb2_grpc.GatewayStub(channel)
                batch = IngestBatch(source="client", events=EventPayload(events=events))
                (ack,) = stub.StreamEvents(iter([batch]), wait_for_ready=True, timeout=30)
            self.oracle.acknowledged(ack.event_ids)
            if received(pipeline, lane) >= goal:
                return
        raise AssertionError(f"{lane} was given no connection")


def events_in(journal: Path) -> int:
    opened = Journal(journal, writable=False)
    try:
        return opened.statistics().events
    finally:
        opened.close()


def sights(pipeline: Pipeline) -> Any:
    return ray.get(pipeline._runtime.hub.sights.remote())[0]  # type: ignore[attr-defined]


def received(pipeline: Pipeline, lane: str) -> int:
    seen = sights(pipeline)
    sight = seen[lane] if lane in seen else seen[f"{lane}/ingest"]
    return int(getattr(sight.statistics, "intake", sight.statistics).received) if sight.statistics else 0


def wait_for_health(pipeline: Pipeline, *, lane: str, well: bool, timeout: float = 60) -> float:
    """Return how many seconds it took until every part of a lane, or one at least, was so."""
    started = time.monotonic()
    while time.monotonic() - started < timeout:
        parts = {name: ok for name, (ok, _) in pipeline.health().components.items() if name.startswith(f"{lane}/")}
        if parts and (all(parts.values()) if well else not all(parts.values())):
            return time.monotonic() - started
        time.sleep(0.2)
    raise AssertionError(f"{lane} is not {'well' if well else 'unwell'}: {pipeline.health().components}")


def lose(side: Any, sender: Sender, pipeline: Pipeline) -> float:
    """Kill a node under load; return how many seconds it took until health said so."""
    os.kill(side.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    sender.wait_for(2_000, 60)
    return wait_for_health(pipeline, lane="lane-2", well=False)


def main(folder: Path, mode: str) -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "_system_config": QUICK}
    )
    side = cluster.add_node(num_cpus=1, node_ip_address=LOST)
    cluster.add_node(num_cpus=0, node_ip_address="127.0.0.3")  # one without CPUs has no lane
    ray.init(address=cluster.address, log_to_driver=False, namespace="application")
    recorder, oracle = Recorder(folder / "out"), Oracle(["recorder"], ordered=())
    journal = folder / "journal.db"
    hub = Hub(runtime="ray").lanes("per-node").buffer_strategy(BufferStrategy.durable(journal))
    hub = (hub.chain() if mode == "back" else hub).middleware(mark).middleware(Deduplicator()).emitter(recorder)
    pipeline = hub.start(grpc_addr="0.0.0.0:0")
    seen = sights(pipeline)
    found: dict[str, Any] = {"lanes": sorted({name.partition("/")[0] for name in seen if "lane-" in name})}
    part = "lane-2" if "lane-2" in seen else "lane-2/buffer"
    found["on its node"] = node_of(seen[part].vitals.pid, [side]) is side
    client = Client(str(pipeline.address).replace("0.0.0.0", "127.0.0.1"), oracle)
    for lane in ("lane-1", "lane-2"):
        client.reach(pipeline, lane)
    sender = Sender(pipeline.sender(), oracle)
    sender.start()
    sender.wait_for(1_000, 30)
    if mode == "back":
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.4")
        found["joined"] = wait_for_health(pipeline, lane="lane-3", well=True)
        client.reach(pipeline, "lane-3")
        recorder.hold()  # so that the lane's journal has something in it when its node is lost
        client.reach(pipeline, "lane-2", more=40)
        found["noticed"] = lose(side, sender, pipeline)
        found["journaled"] = events_in(Path(f"{journal}.lane-2"))
        recorder.release()
        cluster.remove_node(side, allow_graceful=False)
        cluster.add_node(num_cpus=1, node_ip_address=LOST)
        found["back"] = wait_for_health(pipeline, lane="lane-2", well=True)
        client.reach(pipeline, "lane-2")
    else:
        found["noticed"] = lose(side, sender, pipeline)
    sender.stop.set()
    sender.join(60)
    report = pipeline.stop(30 if mode == "back" else 8)
    oracle.delivered("recorder", recorder.events())
    verdict = oracle.verdict()._asdict()
    print(json.dumps({"verdict": verdict, "complete": report.complete, "stop": report.seconds, **found}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
