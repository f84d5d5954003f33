"""The example of support tickets: its own tests, and parts of it killed under load; nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.emit.s3_server import KEYS, S3Server
from tests.examples.tickets import TEAMS, Load, check, files, ids
from tests.kafka.broker import Cluster
from tests.kafka.clients import wait_for
from tests.support.ports import free_port
from tests.support.server import Server, environment

NEEDED = {"wordllama": "wordllama", "pyarrow": "'polku[parquet]'", "obstore": "'polku[s3]'"}
MISSING = [package for module, package in NEEDED.items() if find_spec(module) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"what the example needs is missing: pip install {' '.join(MISSING)}"
)

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "support_tickets"
AWS = {
    "AWS_ACCESS_KEY_ID": KEYS["access_key_id"],
    "AWS_SECRET_ACCESS_KEY": KEYS["secret_access_key"],
    "AWS_REGION": KEYS["region"],
}
TOPICS = [f"tickets.{team}:1" for team in (*TEAMS, "triage")]


def test_its_own_tests_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


def test_the_sidecar_is_killed_under_load_and_loses_nothing(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    servers: list[Server] = []

    def start() -> None:
        servers.append(
            Server(
                tmp_path / str(len(servers)),
                *("run", str(EXAMPLE / "pipeline.py"), "--runtime", "inline"),
                *("--grpc-addr", "127.0.0.1:0", "--http-addr", address),
                KAFKA=cluster.bootstrap,
                FOLDER=str(tmp_path / "data"),
            )
        )

    def kill() -> None:
        servers[-1].stop(signal.SIGKILL)
        start()

    with Cluster(*TOPICS) as cluster:
        try:
            start()
            load = Load(address)
            load.run(kill)
            assert servers[-1].stop() == 0
            check(load, cluster.bootstrap, tmp_path / "data", files(tmp_path / "data" / "archive"))
        finally:
            for server in servers:
                server.stop(signal.SIGKILL)
    assert load.resent > 0
    printed = "".join(server.out.read_text() for server in servers)
    assert {json.loads(line)["id"] for line in printed.splitlines() if line.endswith("}")} == ids(load.count, 1)


@pytest.fixture
def ray_address(tmp_path: Path) -> Iterator[str]:
    """A Ray of this test's own, whose processes carry its mark."""
    program = (
        "import ray; ray.init('local', num_cpus=4, include_dashboard=False, log_to_driver=False,"
        " object_store_memory=200_000_000); print(ray.get_runtime_context().gcs_address, flush=True); input()"
    )
    variables = {"TICKETS_MARK": str(tmp_path), "RAY_ADDRESS": "local", **AWS}  # its processes write the archive
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**environment(), **variables},
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("\n", timeout=60)


def pids(mark: Path, title: str) -> list[int]:
    """Return the processes of the test's Ray whose title has a text in it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_of_ray = entry.name.isdecimal() and f"TICKETS_MARK={mark}".encode() in (entry / "environ").read_bytes()
            if is_of_ray and title.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def kill(mark: Path, title: str) -> None:
    """Kill the processes of a title, and wait until others have it, so that they are of use."""
    before = pids(mark, title)
    assert before, f"no process is called {title}"
    for pid in before:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: set(pids(mark, title)) - set(before), timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_ray_each_part_is_killed_under_load_and_then_everything_and_nothing_is_lost(
    tmp_path: Path, ray_address: str
) -> None:
    folder, address, s3 = tmp_path / "data", f"127.0.0.1:{free_port()}", S3Server()
    where = {"FOLDER": str(folder), "RAY_ADDRESS": ray_address}
    settings = {
        "SERVE": "oncall",
        "ARCHIVE": "s3://events/tickets",
        "S3_ENDPOINT": s3.url,
        "REPLICAS": "2",
    }
    servers: list[Server] = []

    def start() -> None:
        servers.append(
            Server(
                tmp_path / str(len(servers)),
                *("run", str(EXAMPLE / "pipeline.py"), "--runtime", "ray", "--drain", "200"),
                *("--grpc-addr", "127.0.0.1:0", "--http-addr", address),
                **settings,
                **where,
                KAFKA=cluster.bootstrap,
            )
        )

    def kill_everything() -> None:
        shells = pids(tmp_path, "Shell")
        servers[-1].process.kill()
        for pid in [*shells, *pids(tmp_path, "ServeReplica")]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        servers[-1].process.wait(60)
        start()

    with Cluster(*TOPICS) as cluster:
        try:
            deployed = subprocess.run(
                [sys.executable, str(EXAMPLE / "oncall.py")], env=environment(**where), timeout=300, capture_output=True
            )
            assert deployed.returncode == 0, deployed.stderr
            start()
            load = Load(address)
            parts = ("StageShell", "ServeReplica", "EmitterShell", "BufferShell", "IngestShell")
            load.run(*(partial(kill, tmp_path, title) for title in parts), kill_everything)
            assert servers[-1].stop() == 0
            check(load, cluster.bootstrap, folder, s3.objects())
        finally:
            for server in servers:
                server.stop(signal.SIGKILL)
            s3.kill()
    assert load.resent > 0
    pages = [json.loads(line)["id"] for line in (folder / "pages.ndjson").read_text().splitlines()]
    assert set(pages) == ids(load.count, 1)
