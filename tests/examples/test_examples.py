"""The examples run as their docstrings print them, and do what they say."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from backports import zstd

from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import IngestEvent
from tests.kafka.broker import Cluster
from tests.kafka.clients import read, write
from tests.support.server import Server, environment, polku

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
INLINE = ("--runtime", "inline", "--grpc-addr", "127.0.0.1:0")
Run = Callable[..., Server]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    servers: list[Server] = []

    def run(name: str, **variables: str) -> Server:
        folder = tmp_path / str(len(servers))
        servers.append(Server(folder, "run", str(EXAMPLES / name), *INLINE, **variables))
        return servers[-1]

    yield run
    for server in servers:
        server.stop(signal.SIGKILL)


def send(server: Server, *options: str) -> None:
    sent = polku("send", "--to", server.address, *options)
    assert sent.returncode == 0, sent.stderr


def test_quickstart_prints_marked_events_of_users(run: Run) -> None:
    server = run("quickstart.py")
    send(server, "--type", "disk.full")
    send(server, "--type", "user.login", "--metadata", "user=ada")
    server.wait_for(server.out, "user.login")
    assert server.stop() == 0
    (line,) = server.out.read_text().splitlines()
    assert json.loads(line)["metadata"] == {"user": "ada", "processed": "true"}


def test_sidecar_turns_lines_into_events_for_the_gateway_behind_it(run: Run) -> None:
    gateway = run("quickstart.py")
    prints = run("sidecar.py")
    forwards = run("sidecar.py", UPSTREAM=f"http://{gateway.address}")
    lines = b"event=login user=ada\nnonsense\nevent=logout user='ada l'\n"
    for sidecar in (prints, forwards):
        with grpc.insecure_channel(sidecar.address) as channel:
            ack = gateway_pb2_grpc.GatewayStub(channel).SendEvent(IngestEvent(source="legacy", raw=lines))
        assert len(ack.event_ids) == 2
        assert "line 2" in ack.errors[0].message
    prints.wait_for(prints.out, r'legacy\.login[\s\S]*"user":"ada l"')
    assert forwards.stop() == 0
    assert "2 delivered" in forwards.err.read_text()


def test_routing_sends_each_event_where_it_belongs(run: Run, tmp_path: Path) -> None:
    server = run("routing.py", FOLDER=str(tmp_path))
    send(server, "--type", "audit.login")
    send(server, "--type", "disk.full", "--severity", "error")
    send(server, "--type", "tick")
    assert server.stop() == 0
    assert (tmp_path / "audit.log").read_text().split()[1::2] == ["audit.login"]
    assert (tmp_path / "alarms.log").read_text().split()[1::2] == ["disk.full"]
    printed = [json.loads(line)["event_type"] for line in server.out.read_text().splitlines()]
    assert printed == ["audit.login", "disk.full", "tick"]


def test_kafka_sorts_orders_by_tenant_and_keeps_what_cannot_go_on(run: Run, tmp_path: Path) -> None:
    with Cluster("orders:1", "orders.acme:1") as cluster:
        orders = [
            {"event_type": "order.paid", "metadata": {"tenant": "acme", "customer": "ada"}},
            {"event_type": "tick"},
            {"event_type": "order.lost"},
        ]
        write(cluster.bootstrap, "orders", [*(json.dumps(order).encode() for order in orders), b"no json"])
        server = run("kafka.py", KAFKA=cluster.bootstrap, FOLDER=str(tmp_path))
        (record,) = read(cluster.bootstrap, "orders.acme", 1)
        assert record.key() == b"ada"
        assert json.loads(record.value())["id"] == "orders-0-0"
        server.wait_for(server.err, "orders-0-2[\\s\\S]*orders-0-3|orders-0-3[\\s\\S]*orders-0-2")
        assert server.stop() == 0
    listed = polku("dlq", "list", str(tmp_path / "dead.db")).stdout
    assert "orders-0-2" in listed
    assert "orders-0-3" in listed


def test_the_plain_client_is_told_what_was_accepted(run: Run) -> None:
    server = run("routing.py")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "client.py"), server.address],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
    )
    assert done.stdout == "SendEvent: accepted\nStreamEvents: 2000 accepted, 0 refused\n", done.stderr
    assert server.stop() == 0
    assert len(server.out.read_text().splitlines()) == 2_001


@pytest.mark.usefixtures("ray_session")
def test_embedded_runs_inside_an_application() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "embedded.py")], capture_output=True, text=True, timeout=240, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert re.sub(r"stopped: .*", "stopped", done.stdout).splitlines() == [
        "accepted: 10",
        "evaluated: [True, True, True]",
        "stopped",
        "monitor: (11, 0.1)",
        "ray goes on: True",
    ]


def test_archive_writes_compressed_objects_by_tenant_and_day(run: Run, tmp_path: Path) -> None:
    server = run("archive.py", FOLDER=str(tmp_path))
    send(server, "--type", "order.paid", "--metadata", "tenant=../acme")
    send(server, "--type", "order.paid")
    assert server.stop() == 0
    objects = sorted((tmp_path / "archive").rglob("*.ndjson.zst"))
    assert [path.parts[-3] for path in objects] == ["tenant=..%2Facme", "tenant=none"]
    assert [json.loads(zstd.decompress(path.read_bytes()))["event_type"] for path in objects] == ["order.paid"] * 2
