"""A pipeline that Ray's autoscaler gives nodes, and takes them: `python -m tests.cluster.autoscaled FOLDER SHAPE`.

It starts Ray with its autoscaler (version 2), whose provider starts a Ray node of an address of its own for what
would be a machine. There are three types of those: with a `shelf`, with a GPU, and with a label; the step asks for what
one of them has. Prints what came of it as JSON; to be run on a host of its own (`tests.cluster.hosts`), as what it
starts ends with that.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import ray
from ray._private import parameter
from ray.autoscaler._private.fake_multi_node import node_provider

from polku import Event, Hub, Pipeline, Scaling
from polku.testing import Oracle
from tests.ray.test_scaling import Load
from tests.support.recorder import Recorder

HEAD = "127.0.0.1"
PORT = 6379
# What a machine of each type has besides a CPU; Ray is told of GPUs, and looks for none.
TYPES: dict[str, dict[str, Any]] = {
    "shelves": {"resources": {"CPU": 1, "shelf": 1}},
    "gpus": {"resources": {"CPU": 1, "GPU": 1}},
    "labelled": {"resources": {"CPU": 1}, "labels": {"disk": "nvme"}},
}
# What the step of each shape asks for.
NEEDS: dict[str, dict[str, Any]] = {
    "replicas": {"resources": {"shelf": 1}},
    "lanes": {"resources": {"shelf": 1}},
    "parts of GPUs": {"num_gpus": 0.5},
    "labels": {"labels": {"disk": "nvme"}, "num_cpus": 1},
    "labels alone": {"labels": {"disk": "nvme"}},
}
GROWN = {"parts of GPUs": 3}  # replicas: two of them are on one node
QUICK = Scaling(
    oldest_seconds=2.0, busy=0.5, idle=0.45, up_seconds=1.0, down_seconds=2.0, pause_seconds=1.0, start_seconds=120.0
)


class Provider(node_provider.FakeMultiNodeProvider):
    """Start a node of Ray, with an address of the loopback network, where a machine would be rented."""

    def _create_node_with_resources_and_labels(self, *arguments: Any, **options: Any) -> None:
        plain: Any = parameter.RayParams
        address = f"127.0.0.{self._next_node_id + 10}"

        def with_address(*own: Any, **named: Any) -> Any:
            return plain(*own, **{**named, "node_ip_address": address})

        with mock.patch.object(parameter, "RayParams", with_address):
            create: Any = super()._create_node_with_resources_and_labels
            create(*arguments, **options)


def configuration() -> dict[str, Any]:
    """Return what the autoscaler is told: up to three nodes of each type, gone after 5 s with nothing to do."""
    head = node_provider.FAKE_HEAD_NODE_TYPE
    nothing: list[str] = []
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "autoscaled",
        "max_workers": 3 * len(TYPES),
        "idle_timeout_minutes": 5 / 60,
        "provider": {
            "type": "external",
            "module": "tests.cluster.autoscaled.Provider",
            "gcs_address": f"{HEAD}:{PORT}",
            "head_node_id": node_provider.FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": head,
        "available_node_types": {
            head: {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            **{name: {"node_config": {}, "min_workers": 0, "max_workers": 3, **has} for name, has in TYPES.items()},
        },
        "auth": {"ssh_user": "nobody"},
        "file_mounts": {},
        "cluster_synced_files": nothing,
        "file_mounts_sync_continuously": False,
        "rsync_exclude": nothing,
        "rsync_filter": nothing,
        **{f"{name}_commands": nothing for name in commands},
    }


def start_ray(folder: Path) -> None:
    """Start Ray's head with its autoscaler."""
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(configuration()))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--autoscaling-config={file}"]
    command += [f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=2", "--include-dashboard=false"]
    command += ["--object-store-memory=100000000", "--disable-usage-stats"]
    own = {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": node_provider.FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_provider.FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    subprocess.run(command, check=True, env={**os.environ, **own}, stdout=sys.stderr)


def nodes() -> list[str]:
    """Return the addresses of the nodes that live, besides the head's."""
    alive = [each["NodeManagerAddress"] for each in ray.nodes() if each["Alive"]]
    return sorted(address for address in alive if address != HEAD)


def types() -> set[str]:
    """Return the types of the nodes that live, besides the head's: by what they have."""
    found = set()
    for each in ray.nodes():
        if each["Alive"] and each["NodeManagerAddress"] != HEAD:
            has = {"shelves": "shelf" in each["Resources"], "gpus": "GPU" in each["Resources"]}
            has["labelled"] = "disk" in each["Labels"]
            found |= {name for name, it_has in has.items() if it_has}
    return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 120.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)
    return time.monotonic() - started


async def model(event: Event) -> None:
    await asyncio.sleep(0.02)


def hub(shape: str) -> Hub:
    """Return a pipeline whose step needs what a node of one type has, for each replica, or in each lane."""
    made, needs = Hub(runtime="ray").ack("delivered").scaling(QUICK), NEEDS[shape]
    if shape == "lanes":
        return made.lanes(min=1, max=3, spread=True).middleware(model, name="model", **needs)
    return made.middleware(model, name="model", replicas=(1, 3), **needs)


def number(pipeline: Pipeline) -> int:
    """Return how many replicas, or lanes, there are."""
    return sum(scale.number for scale in pipeline.statistics().scales)


def main(folder: Path, shape: str) -> None:
    start_ray(folder)
    ray.init(address=f"{HEAD}:{PORT}", log_to_driver=False, namespace="application")
    found: dict[str, Any] = {"before": nodes()}
    recorder, oracle = Recorder(folder / "out"), Oracle(["out"], ordered=() if shape == "lanes" else None)
    with hub(shape).emitter(recorder, name="out").start(grpc_addr="0.0.0.0:0") as pipeline:
        found["first"] = nodes()
        with Load(pipeline, oracle, "c", 12, patient=True) as load:
            load.until(lambda: number(pipeline) >= GROWN.get(shape, 2), go_on=30)
            found["grown"], found["types"] = nodes(), sorted(types())
            found["lanes"] = sorted({lane.address for lane in pipeline._runtime.parts.taking})  # type: ignore[attr-defined]
        found["shrunk after"] = wait_until(lambda: number(pipeline) == 1, "one")
        found["gone after"] = wait_until(lambda: len(nodes()) == 1, "the autoscaler to take nodes away")
        with Load(pipeline, oracle, "d", 1, patient=True) as load:
            load.until(lambda: load.acked > 50)
        wait_until(lambda: pipeline.health().healthy, "health")
        found["failures"] = [scale.failures for scale in pipeline.statistics().scales]
        report = pipeline.stop()
    wait_until(lambda: not nodes(), "the last node to go")
    oracle.delivered("out", recorder.events())
    print(json.dumps({**found, "loss": report.loss, "verdict": oracle.verdict()._asdict()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
