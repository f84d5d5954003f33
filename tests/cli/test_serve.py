"""`polku serve` and `polku run`, as a person at a terminal uses them: real processes, real signals."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from polku import __version__
from polku.ahti.v1.events_pb2 import EventType
from polku.testing import AhtiServer
from tests.cli.programs import PIPELINE
from tests.gateway.http_client import curl, post
from tests.support.authority import Authority
from tests.support.server import POLKU, Server, polku


def test_version() -> None:
    assert polku("--version").stdout == f"polku {__version__}\n"


def test_serve_prints_events_and_nothing_else_on_standard_output(server: Server) -> None:
    sent = polku("send", "--to", server.address, "--type", "user.login", "--id", "evt-001", "--metadata", "k=v")
    assert sent.returncode == 0, sent.stderr
    assert "1 accepted, 0 refused" in sent.stderr
    server.wait_for(server.out, "evt-001")
    assert server.stop() == 0
    (line,) = server.out.read_text().splitlines()
    event = json.loads(line)
    assert (event["id"], event["event_type"], event["metadata"]) == ("evt-001", "user.login", {"k": "v"})
    assert "1 delivered" in server.err.read_text()


def test_serve_takes_its_certificate_from_options_and_variables(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    pair = authority.issue()
    variables = {
        "POLKU_RUNTIME": "inline",
        "POLKU_GRPC_ADDR": "127.0.0.1:0",
        "POLKU_HTTP_ADDR": "127.0.0.1:0",
        "POLKU_TLS_KEY": str(pair.key),
    }
    server = Server(tmp_path / "secure", "serve", "--tls-cert", str(pair.cert), **variables)
    try:
        assert "(TLS, runtime inline)" in server.err.read_text()
        trusting = ssl.create_default_context(cafile=str(authority.cert))
        url = f"https://{server.http_address}/health"
        assert urllib.request.urlopen(url, context=trusting, timeout=30).status == 200
        options = ["--to", f"https://{server.address}", "--root-certificates", str(authority.cert)]
        sent = polku("send", "--type", "secret", *options)
        assert (sent.returncode, "1 accepted" in sent.stderr) == (0, True), sent.stderr
    finally:
        assert server.stop() == 0
    refused = polku("serve", **variables)
    assert refused.returncode == 2
    assert "POLKU_TLS_CERT='': is missing: name the PEM file of the server's certificate" in refused.stderr


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="there is no /proc")
def test_serve_uses_the_descriptors_that_it_may_have(server: Server) -> None:
    lines = Path(f"/proc/{server.process.pid}/limits").read_text().splitlines()
    (soft, hard) = next(line.split()[3:5] for line in lines if line.startswith("Max open files"))
    assert int(soft) == min(65_536, int(hard)) or int(soft) > 65_536


def test_serve_forwards_to_other_gateways(server: Server, tmp_path: Path) -> None:
    front = Server(
        tmp_path / "front",
        "serve",
        POLKU_RUNTIME="inline",
        POLKU_GRPC_ADDR="127.0.0.1:0",
        POLKU_EMIT_GRPC_ENDPOINTS=f"http://{server.address}",
    )
    try:
        assert polku("send", "--to", front.address, "--type", "forwarded").returncode == 0
        server.wait_for(server.out, "forwarded")
        assert front.out.read_text() == ""
    finally:
        front.stop()


async def test_serve_sends_to_ahti_beside_other_gateways(server: Server, tmp_path: Path) -> None:
    async with AhtiServer() as ahti:
        variables = {
            "POLKU_RUNTIME": "inline",
            "POLKU_GRPC_ADDR": "127.0.0.1:0",
            "POLKU_EMIT_AHTI_ENDPOINT": f"http://127.0.0.1:1, {ahti.address}",
            "POLKU_EMIT_GRPC_ENDPOINTS": f"http://{server.address}",
        }
        front = await asyncio.to_thread(lambda: Server(tmp_path / "front", "serve", **variables))
        try:
            sent = await asyncio.to_thread(polku, "send", "--to", front.address, "--type", "k8s.pod.created")
            assert sent.returncode == 0, sent.stderr
            await ahti.arrived(1)
            await asyncio.to_thread(server.wait_for, server.out, "k8s.pod.created")
        finally:
            await asyncio.to_thread(front.stop)
        assert front.out.read_text() == ""
    assert [(EventType.Name(event.type), event.subtype) for event in ahti.events] == [("EVENT_TYPE_POD", "pod.created")]


def test_serve_is_open_for_http_where_the_environment_says_so(tmp_path: Path, runtime: str) -> None:
    addresses = {"POLKU_GRPC_ADDR": "127.0.0.1:0", "POLKU_HTTP_ADDR": "127.0.0.1:0"}
    server = Server(tmp_path, "serve", POLKU_RUNTIME=runtime, POLKU_HTTP_TOKEN="s3cret", **addresses)
    try:
        assert post(server.http_address, b'{"id": "no"}').status == 401
        token = ("-H", "Authorization: Bearer s3cret")
        assert post(server.http_address, b'{"id": "over-http"}', "application/json", *token).ids == ["over-http"]
        assert polku("send", "--to", server.address, "--type", "t", "--id", "over-grpc").returncode == 0
        server.wait_for(server.out, "over-http")
        server.wait_for(server.out, "over-grpc")
        assert server.stop() == 0
        assert "2 delivered" in server.err.read_text()
        assert "s3cret" not in server.err.read_text()
    finally:
        server.stop(signal.SIGKILL)


def test_without_an_http_address_no_http_is_open_and_its_library_stays_out(server: Server) -> None:
    assert server.http_address is None
    mapped = Path(f"/proc/{server.process.pid}/maps")
    if mapped.exists():
        assert "aiohttp" not in mapped.read_text()


def test_what_reads_unusual_requests_is_loaded_by_the_first_one(tmp_path: Path) -> None:
    addresses = {"POLKU_GRPC_ADDR": "127.0.0.1:0", "POLKU_HTTP_ADDR": "127.0.0.1:0"}
    server = Server(tmp_path, "serve", command=POLKU, POLKU_RUNTIME="inline", **addresses)
    mapped = Path(f"/proc/{server.process.pid}/maps")
    try:
        assert post(server.http_address, b'{"id": "1", "event_type": "t"}', "application/json").ids == ["1"]
        assert curl(server.http_address, "/health").status == 200
        is_loaded = [mapped.exists() and "aiohttp" in mapped.read_text()]
        assert curl(server.http_address, "/elsewhere").status == 404
        is_loaded.append(not mapped.exists() or "aiohttp" in mapped.read_text())
        assert is_loaded == [False, True]
    finally:
        server.stop()


def test_run_takes_a_hub_by_name_and_points_out_a_misspelt_variable(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    arguments = ("run", f"{file}:other", "--runtime", "inline", "--grpc-addr", "127.0.0.1:0")
    server = Server(tmp_path, *arguments, POLKU_HTP_ADDR="127.0.0.1:0", POLKU_OF_THE_PIPELINE="1")
    assert polku("send", "--to", server.address, "--type", "twice").returncode == 0
    server.wait_for(server.out, r"twice[\s\S]*twice")
    assert server.stop(signal.SIGINT) == 0
    assert "POLKU_HTP_ADDR is not a setting; did you mean POLKU_HTTP_ADDR?" in server.err.read_text()
    assert "OF_THE_PIPELINE" not in server.err.read_text()


@pytest.mark.usefixtures("ray_session")
def test_serve_on_ray_prints_the_same_from_the_lane_of_its_node(tmp_path: Path) -> None:
    server = Server(tmp_path, "serve", POLKU_GRPC_ADDR="127.0.0.1:0", POLKU_LANES="per-node")
    try:
        assert polku("send", "--to", server.address, "--type", "user.login", "--id", "evt-ray").returncode == 0
        server.wait_for(server.out, "evt-ray")
        assert server.stop() == 0
        (line,) = server.out.read_text().splitlines()
        event: dict[str, Any] = json.loads(line)
        assert event["id"] == "evt-ray"
    finally:
        server.stop(signal.SIGKILL)
