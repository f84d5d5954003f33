"""A Ray cluster on hosts, a pipeline with a lane on each, and load from one host more."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.hosts import Host, hosts, wait_until
from tests.cluster.load import GATEWAY_PORT

RAY_PORT = 6379
SINK_PORT = 9000
# How soon a node counts as lost: as cluster.yaml says, and as Ray has it.
HEALTH = {
    "quick": {
        "RAY_health_check_period_ms": "300",
        "RAY_health_check_timeout_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    },
    "ray": {},
}
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "MALLOC_ARENA_MAX": "2",
    "POLKU_LOG_LEVEL": "info",
}
_NODE = ("--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--include-log-monitor=false")
_STILL_SECONDS = 10.0  # without an arrival, and what has not arrived is lost
# What a service manager does: start it again when it has ended.
_AGAIN = 'while :; do "$@" & echo $! > "/mnt/$0.pid"; wait $!; echo "ended with $?"; sleep 3; done'


class Cluster:
    """The hosts of a cluster, the first of which has Ray's head and the pipeline's program; the last sends the load."""

    def __init__(self, made: list[Host], folder: Path, buffer: str, shape: str, health: str) -> None:
        *self.hosts, self.outside = made
        self.folder = folder
        sink = f"{self.outside.address}:{SINK_PORT}"
        self._settings = {"CLUSTER_BUFFER": buffer, "CLUSTER_SHAPE": shape, "CLUSTER_SINK": sink}
        self._environment = {**_ENVIRONMENT, **HEALTH[health]}
        self._load = self._start_load(sink)

    @property
    def head(self) -> Host:
        """The host of Ray's head."""
        return self.hosts[0]

    def start(self) -> None:
        """Start Ray on every host, and the pipeline once all have joined."""
        self.start_ray(self.head)
        wait_until(lambda: self.nodes(), "the head", 60)
        for host in self.hosts[1:]:
            self.start_ray(host)
        wait_until(lambda: len(self.nodes()) >= len(self.hosts), "every host to join", 120)
        self.start_pipeline()
        try:
            wait_until(lambda: "polku: ready" in self.log(), "the pipeline", 90)
            wait_until(lambda: len(self.open_gateways()) == len(self.hosts), "a gateway on every host", 90)
        except AssertionError as error:
            raise AssertionError(f"{error}; the pipeline said:\n{self.log()}") from None

    def start_ray(self, host: Host) -> None:
        """Have Ray run on a host from now on."""
        role = ["--address", f"{self.head.address}:{RAY_PORT}"]
        if host is self.head:
            role = ["--head", f"--port={RAY_PORT}", "--temp-dir=/mnt/ray", "--include-dashboard=false"]
        command = [
            sys.executable,
            "-m",
            "tests.cluster.ray_start",
            "--block",
            *role,
            f"--node-ip-address={host.address}",
            *_NODE,
        ]
        self._start_again_and_again(host, "ray", command)

    def stop_ray(self, host: Host) -> None:
        """Stop Ray on a host as a service manager does (SIGTERM), and return when it has ended."""
        log = self.folder / f"ray-{host.number}.log"
        before = log.read_text().count("ended with")
        host.run("sh", "-c", "kill $(cat /mnt/ray.pid)")
        wait_until(lambda: log.read_text().count("ended with") > before, "the end of Ray", 90)

    def start_pipeline(self) -> None:
        """Have the pipeline run on the head from now on."""
        command = [sys.executable, "-m", "polku", "run", "tests/cluster/pipeline.py", "--runtime", "ray"]
        command += ["--lanes", "per-node", "--grpc-addr", f"0.0.0.0:{GATEWAY_PORT}"]
        self._start_again_and_again(self.head, "polku", command)

    def _start_again_and_again(self, host: Host, name: str, command: list[str]) -> None:
        environment = {**self._environment, **self._settings}
        if name == "polku":
            environment["RAY_ADDRESS"] = f"{self.head.address}:{RAY_PORT}"
        host.start("bash", "-c", _AGAIN, name, *command, log=self.folder / f"{name}-{host.number}.log", **environment)

    def drain(self, host: Host, seconds: int) -> None:
        """Have Ray drain the node of a host, as before its machine is taken away."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        command += ["--address", f"{self.head.address}:{RAY_PORT}", "--node-id", self.nodes()[host.address]]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"]
        self.head.run(*command, "--deadline-remaining-seconds", str(seconds), check=True, **self._environment)

    def nodes(self) -> dict[str, str]:
        """Return the identities of the nodes of Ray that live, by their addresses; none while the head is away."""
        code = f"import ray._raylet as r; g = r.GcsClient('{self.head.address}:{RAY_PORT}')\n"
        code += "for n in g.get_all_node_info().values():\n"
        code += " n.state or print(n.node_manager_address, n.node_id.hex())"
        said = self.head.run(sys.executable, "-c", code, check=False, **self._environment)
        return dict(line.split() for line in said.splitlines())

    def open_gateways(self) -> list[Host]:
        """Return the hosts on which clients are served, as the load's host sees it."""
        code = (
            "import socket, sys\nfor a in sys.argv[1:]:\n try: socket.create_connection((a, %d), 1).close(); print(a)\n"
        )
        code = code % GATEWAY_PORT + " except OSError: pass"
        said = self.outside.run(sys.executable, "-c", code, *(host.address for host in self.hosts)).split()
        return [host for host in self.hosts if host.address in said]

    def ask(self, what: str) -> Any:
        """Tell the load what to do, and return its answer."""
        assert self._load.stdin is not None
        assert self._load.stdout is not None
        print(what, file=self._load.stdin, flush=True)
        return json.loads(self._load.stdout.readline())

    def log(self) -> str:
        """Return the end of what the pipeline has said."""
        return (self.folder / f"polku-{self.head.number}.log").read_text()[-4000:]

    def _start_load(self, sink: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.cluster.load", str(self.folder), sink]
        return self.outside.hold(*command, *(host.address for host in self.hosts), log=self.folder / "load.log")

    def settle(self, seconds: float = 60.0) -> Any:
        """Send nothing new, wait until all has its answer and nothing arrives any more, and return what was seen."""
        self.ask("rest")
        deadline, arrived, since = time.monotonic() + seconds, -1, 0.0
        while True:
            seen, now = self.ask("look"), time.monotonic()
            verdict = seen["verdict"]
            if verdict["delivered"] != arrived:
                arrived, since = verdict["delivered"], now
            has_settled = not verdict["lost"] or now - since > _STILL_SECONDS
            if now > deadline or (has_settled and all(client["done"] for client in seen["clients"].values())):
                return seen
            time.sleep(0.2)


@contextlib.contextmanager
def cluster(
    folder: Path, *, nodes: int = 4, buffer: str, shape: str = "chain", health: str = "quick"
) -> Iterator[Cluster]:
    """Have a cluster with a pipeline under load."""
    with hosts(nodes + 1, folder) as made:
        built = Cluster(made, folder, buffer, shape, health)
        built.start()
        built.ask("start")
        yield built
