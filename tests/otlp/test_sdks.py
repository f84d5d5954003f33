"""The OpenTelemetry SDKs of Python, Go and Node send logs, traces and metrics, over gRPC and HTTP."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polku import Severity
from polku.otlp import log_record, metric, span
from tests.clients import toolchains
from tests.otlp.requests import door

CLIENTS = Path(__file__).parent / "clients"


def python_client(work: Path) -> list[str]:
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc") is None:
        pytest.skip("opentelemetry-exporter-otlp is not installed")
    return [sys.executable, str(CLIENTS / "python_client.py")]


def go_client(work: Path) -> list[str]:
    toolchains.need("go")
    toolchains.run(["go", "build", "-o", str(work / "client"), "."], CLIENTS / "go", {"GOFLAGS": "-modcacherw"})
    return [str(work / "client")]


def node_client(work: Path) -> list[str]:
    toolchains.need("node")
    toolchains.need("npm")
    shutil.copytree(CLIENTS / "node", work, ignore=shutil.ignore_patterns("node_modules"), dirs_exist_ok=True)
    toolchains.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], work)
    return ["node", str(work / "client.js")]


MAKERS: dict[str, Callable[[Path], list[str]]] = {"python": python_client, "go": go_client, "node": node_client}


SLOW = [pytest.param(language, marks=pytest.mark.slow) for language in ("go", "node")]


@pytest.fixture(scope="module", params=["python", *SLOW])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    return request.param, MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["native", "grpcio"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_sdk_sends_logs_traces_and_metrics(
    client: tuple[str, list[str]], protocol: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    language, command = client
    if protocol == "http" and server == "grpcio":
        pytest.skip("the server of HTTP is the same")
    monkeypatch.setenv("POLKU_DOOR", server)
    with door() as place:
        address = str(place.pipeline.address if protocol == "grpc" else place.pipeline.http_address)
        done = subprocess.run([*command, protocol, address], capture_output=True, text=True, timeout=240)
        assert done.stdout.strip() == "sent", done.stderr
        events = {event.event_type: event for event in place.events}
    assert len(place.events) == 3
    assert {event.source for event in place.events} == {"sdk"}
    log, work, requests = events["otel.log"], events["otel.span"], events["otel.metric"]
    assert (log.severity, log.metadata["language"]) == (Severity.SEVERITY_WARNING, language)
    assert log_record(log).body.string_value == "hello"
    assert span(work).name == "work"
    parents = [event.metadata["traceparent"].split("-") for event in (log, work)]  # their flags may differ
    assert [f"{trace}-{own}" for _, trace, own, _ in parents] == [work.id, work.id]
    (point,) = metric(requests).sum.data_points
    assert (metric(requests).name, point.as_int or point.as_double) == ("requests", 3)
