"""A lane on every node, and one that is lost under load: `python -m tests.ray.per_node FOLDER back|gone|forgotten`.

Prints what came of it as JSON. Every node is a Ray of its own on this machine, with an address of the loopback network.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_memory_monitor_refresh_ms="0", RAY_worker_niceness="0")

import grpc
import ray
from ray.cluster_utils import Cluster

from polku import BufferStrategy, Deduplicator, Hub, Pipeline
from polku.buffer.journal_reader import JournalReader
from polku.testing import Oracle
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, HealthRequest, HealthResponse, IngestBatch
from tests.ray.node_lost import QUICK, Sender, mark, node_of
from tests.support.ray_forks import bare_nodes
from tests.support.recorder import Recorder

LOST = "127.0.0.2"


class Client:
    """Send over the gateway's port until a certain lane has had so many events: the kernel chooses among the lanes."""

    def __init__(self, address: str, oracle: Oracle) -> None:
        self.address, self.oracle = address, oracle
        self.ids: list[str] = []

    def reach(self, pipeline: Pipeline, lane: str, more: int = 20) -> None:
        goal = received(pipeline, lane) + more
        for attempt in range(200):
            events = self.oracle.events(f"client-{attempt}-{time.time_ns()}", 20)
            with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = gateway_pb2_grpc.GatewayStub(channel)
                batch = IngestBatch(source="client", events=EventPayload(events=events))
                (ack,) = stub.StreamEvents(iter([batch]), wait_for_ready=True, timeout=30)
            self.oracle.acknowledged(ack.event_ids)
            self.ids += ack.event_ids
            if received(pipeline, lane) >= goal:
                return
        raise AssertionError(f"{lane} was given no connection")


def events_in(journal: Path) -> int:
    opened = JournalReader(journal)
    try:
        return opened.statistics().events
    finally:
        opened.close()


def sights(pipeline: Pipeline) -> Any:
    return ray.get(pipeline._runtime.supervisor.sights.remote())[0]  # type: ignore[attr-defined]


def received(pipeline: Pipeline, lane: str) -> int:
    seen = sights(pipeline)
    sight = seen[lane] if lane in seen else seen[f"{lane}/ingest"]
    return int(getattr(sight.statistics, "intake", sight.statistics).received) if sight.statistics else 0


def asked_at_a_door(address: str) -> HealthResponse:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        told: HealthResponse = gateway_pb2_grpc.GatewayStub(channel).Health(
            HealthRequest(), wait_for_ready=True, timeout=30
        )
        return told


def is_well_without(told: HealthResponse, lane: str) -> bool:
    return told.healthy and not any(name.startswith(lane) for name in told.components)


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout, "never came to be"
        time.sleep(0.2)


def wait_for_health(pipeline: Pipeline, *, lane: str, well: bool, timeout: float = 60) -> float:
    """Return how many seconds it took until every part of a lane, or one at least, was so."""
    started = time.monotonic()
    while time.monotonic() - started < timeout:
        parts = {name: ok for name, (ok, _) in pipeline.health().components.items() if name.startswith(f"{lane}/")}
        if parts and (all(parts.values()) if well else not all(parts.values())):
            return time.monotonic() - started
        time.sleep(0.2)
    raise AssertionError(f"{lane} is not {'well' if well else 'unhealthy'}: {pipeline.health().components}")


@ray.remote(num_cpus=0, resources={f"node:{LOST}": 0.001})
def choice_on_the_lost_node(door: Any) -> int:
    """Return which lane a sender chooses there."""
    choice: int = door._choice
    return choice


def lose(side: Any, sender: Sender) -> None:
    """Kill a node under load."""
    os.kill(side.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    sender.wait_for(2_000, 60)


class Run:
    """A cluster of three nodes, two of which have a lane, and a pipeline under load."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "_system_config": QUICK}
        )
        self.side = self.cluster.add_node(num_cpus=1, node_ip_address=LOST)
        self.cluster.add_node(num_cpus=0, node_ip_address="127.0.0.3")  # one without CPUs has no lane
        ray.init(address=self.cluster.address, log_to_driver=False, namespace="application")
        self.recorder, self.oracle = Recorder(folder / "out"), Oracle(["recorder"], ordered=())
        hub = hub.lanes("per-node").middleware(mark).middleware(Deduplicator()).emitter(self.recorder)
        self.pipeline = hub.start(grpc_addr="0.0.0.0:0")
        seen = sights(self.pipeline)
        self.found: dict[str, Any] = {"lanes": sorted({n.partition("/")[0] for n in seen if "lane-" in n})}
        part = "lane-2" if "lane-2" in seen else "lane-2/buffer"
        self.pid = seen[part].vitals.pid
        self.found["on its node"] = node_of(self.pid, [self.side]) is self.side
        self.client = Client(str(self.pipeline.address).replace("0.0.0.0", "127.0.0.1"), self.oracle)
        for lane in ("lane-1", "lane-2"):
            self.client.reach(self.pipeline, lane)
        self.sender = Sender(self.pipeline.sender(), self.oracle)
        self.sender.start()
        self.sender.wait_for(1_000, 60)

    def end(self, timeout: float) -> None:
        """Stop everything and print what was found."""
        self.sender.stop.set()
        self.sender.join(60)
        report = self.pipeline.stop(timeout)
        self.oracle.delivered("recorder", self.recorder.events())
        verdict = self.oracle.verdict()._asdict()
        found = {"verdict": verdict, "complete": report.complete, "stop": report.seconds, **self.found}
        print(json.dumps(found), flush=True)
        ray.shutdown()
        self.cluster.shutdown()


def back(folder: Path) -> None:
    """A node joins; one is lost while its journal holds something, and comes back."""
    journal = folder / "journal.db"
    run = Run(folder, Hub(runtime="ray").chain().buffer_strategy(BufferStrategy.durable(journal)))
    run.cluster.add_node(num_cpus=1, node_ip_address="127.0.0.4")
    run.found["joined"] = wait_for_health(run.pipeline, lane="lane-3", well=True)
    run.client.reach(run.pipeline, "lane-3")
    door: Any = run.pipeline._runtime.door()
    run.found["near"] = [door._choice, ray.get(choice_on_the_lost_node.remote(door))]
    run.recorder.hold()
    run.client.reach(run.pipeline, "lane-2", more=40)
    lose(run.side, run.sender)
    run.found["noticed"] = wait_for_health(run.pipeline, lane="lane-2", well=False)
    run.found["journaled"] = events_in(Path(f"{journal}.lane-2"))
    run.recorder.release()
    # For a moment processes of the lost node may still answer, and a stage that is shared may just be starting.
    wait_until(lambda: is_well_without(asked_at_a_door(run.client.address), "lane-2"))
    run.found["all well"] = run.pipeline.health().healthy
    run.cluster.remove_node(run.side, allow_graceful=False)
    run.cluster.add_node(num_cpus=1, node_ip_address=LOST)
    run.found["back"] = wait_for_health(run.pipeline, lane="lane-2", well=True)
    run.client.reach(run.pipeline, "lane-2")
    run.end(30)


def gone(folder: Path) -> None:
    """A node is lost while the stage that lanes share waits for it; its client turns to another lane with that."""
    run = Run(folder, Hub(runtime="ray").buffer_strategy(BufferStrategy.durable(folder / "journal.db")))
    os.kill(run.pid, signal.SIGSTOP)
    events = run.oracle.events("turns", 20)
    lost = run.pipeline._runtime.parts.lanes[1]  # type: ignore[attr-defined]
    message = IngestBatch(source="turns", events=EventPayload(events=events)).SerializeToString()
    unanswered = lost.ingest.submit.remote(message)
    wait_until(lambda: sights(run.pipeline)["lane-2/stage-1"].statistics.received >= 40)
    os.kill(run.side.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    os.kill(run.pid, signal.SIGKILL)
    started = time.monotonic()
    receipt = run.pipeline.sender().send(events, timeout=60)
    run.found["turned"] = time.monotonic() - started
    assert not receipt.refused, receipt
    run.oracle.acknowledged(receipt.event_ids)
    del unanswered
    run.sender.wait_for(2_000, 60)
    run.found["noticed"] = wait_for_health(run.pipeline, lane="lane-2", well=False)
    run.end(8)


def forgotten(folder: Path) -> None:
    """A node is lost whose buffer is in memory: its lane is forgotten, and a node of its address has a new one."""
    run = Run(folder, Hub(runtime="ray").chain())
    run.client.reach(run.pipeline, "lane-2")
    wait_until(lambda: {event.id for event in run.recorder.events()}.issuperset(run.client.ids))
    lose(run.side, run.sender)
    wait_until(lambda: not any(name.startswith("lane-2") for name in run.pipeline.health().components))
    run.cluster.remove_node(run.side, allow_graceful=False)
    run.cluster.add_node(num_cpus=1, node_ip_address=LOST)
    wait_for_health(run.pipeline, lane="lane-3", well=True)
    run.client.reach(run.pipeline, "lane-3")
    run.found["well"] = run.pipeline.health().healthy
    run.end(30)


if __name__ == "__main__":
    with bare_nodes():
        {"back": back, "gone": gone, "forgotten": forgotten}[sys.argv[2]](Path(sys.argv[1]))
