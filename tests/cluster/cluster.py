"""A Ray cluster on hosts, a pipeline with a lane on each, and load from one host more."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
_NODE = (
    "--num-cpus=1",
    "--object-store-memory=100000000",
    "--disable-usage-stats",
    "--include-log-monitor=false",
    "--min-worker-port=0",  # any: those that a node would choose are among the ports of its agents here
    "--max-worker-port=0",
)
# Print the names of the actors that live, and the addresses of their nodes.
_ACTORS = """
import sys
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
state = GlobalState()
state._initialize_global_state(GcsClientOptions.create(sys.argv[1], None, True, True))
nodes = {each["NodeID"]: each["NodeManagerAddress"] for each in state.node_table()}
for actor in state.actor_table(None).values():
    if actor["State"] == "ALIVE" and actor["Name"]:
        print(actor["Name"], nodes[actor["Address"]["NodeID"]])
"""
_STILL_SECONDS = 10.0  # without an arrival, and what has not arrived is lost
# What a service manager does: start it again when it has ended.
AGAIN = 'while :; do "$@" & echo $! > "/mnt/$0.pid"; wait $!; echo "ended with $?"; sleep 3; done'


class Cluster:
    """The hosts of a cluster, the first of which has Ray's head and the pipeline's program; the last sends the load."""

    def __init__(
        self, made: list[Host], folder: Path, buffer: str, shape: str, health: str, lanes: str, clients: int
    ) -> None:
        *self.hosts, self.outside = made
        self.folder = folder
        self._lanes = lanes
        self.gateways = self.hosts if lanes == "per-node" else self.hosts[:1]
        self._clients = clients
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
            wait_until(lambda: self.open_gateways() == self.gateways, "every gateway", 90)
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
        command += ["--grpc-addr", f"0.0.0.0:{GATEWAY_PORT}", *(["--lanes", self._lanes] if self._lanes else [])]
        self._start_again_and_again(self.head, "polku", command)

    def _start_again_and_again(self, host: Host, name: str, command: list[str]) -> None:
        environment = {**self._environment, **self._settings}
        if name == "polku":
            environment["RAY_ADDRESS"] = f"{self.head.address}:{RAY_PORT}"
        host.start("bash", "-c", AGAIN, name, *command, log=self.folder / f"{name}-{host.number}.log", **environment)

    def change(self, **changes: object) -> None:
        """Write down what the pipeline's file says from now on; the pipeline learns of it by `reload`."""
        (self.head.disk / "changes.json").write_text(json.dumps(changes))

    def reload(self) -> Callable[[], str]:
        """Have the pipeline load its file again (SIGHUP); return what waits for the outcome, and returns it."""
        before = self._outcomes()
        self.head.run("sh", "-c", "kill -HUP $(cat /mnt/polku.pid)")

        def outcome() -> str:
            wait_until(lambda: len(self._outcomes()) > len(before), "the end of the reload", 180)
            return self._outcomes()[len(before)]

        return outcome

    def _outcomes(self) -> list[str]:
        found = [text for line in self.whole_log().splitlines() if (text := line.partition("polku: reload: ")[2])]
        differences = ("unchanged ", "changed ", "new ", "gone ", "would be ", "emitter ")
        return [text for text in found if not text.startswith(differences)]

    def actors(self) -> dict[str, str]:
        """Return the addresses of the living actors' nodes, by the names of their parts."""
        said = self.head.run(
            sys.executable, "-c", _ACTORS, f"{self.head.address}:{RAY_PORT}", check=True, **self._environment
        )
        return {name.partition("/")[2]: address for name, address in map(str.split, said.splitlines())}

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
        return self.whole_log()[-4000:]

    def whole_log(self) -> str:
        """Return what the pipeline has said."""
        return (self.folder / f"polku-{self.head.number}.log").read_text()

    def _start_load(self, sink: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.cluster.load", str(self.folder), sink, str(self._clients)]
        return self.outside.hold(*command, *(host.address for host in self.gateways), log=self.folder / "load.log")

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
    folder: Path,
    *,
    nodes: int = 4,
    buffer: str,
    shape: str = "chain",
    health: str = "quick",
    lanes: str = "per-node",
    clients: int = 1,
    changes: Mapping[str, object] | None = None,
) -> Iterator[Cluster]:
    """Have a cluster with a pipeline under load: of that many `clients` for each gateway."""
    with hosts(nodes + 1, folder) as made:
        built = Cluster(made, folder, buffer, shape, health, lanes, clients)
        built.change(**(changes or {}))
        built.start()
        built.ask("start")
        yield built
