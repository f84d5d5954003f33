"""The load generator of the OpenTelemetry Collector, `telemetrygen`, sends what it makes to a pipeline."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.clients import toolchains
from tests.otlp.requests import door

MODULE = "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen@v0.161.0"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build it, which takes minutes the first time."""
    toolchains.need("go")
    folder = tmp_path_factory.mktemp("telemetrygen")
    toolchains.run(["go", "install", MODULE], folder, {"GOFLAGS": "-modcacherw", "GOBIN": str(folder)})
    return str(folder / "telemetrygen")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("signal", "made", "kind", "count"),
    [
        ("logs", 5_000, "otel.log", 5_000),
        ("traces", 500, "otel.span", 1_000),  # a span and one below it; of more its queue drops some by itself
        ("metrics", 5_000, "otel.metric", 5_000),
    ],
)
def test_all_that_it_makes_arrives_once(
    program: str, protocol: str, signal: str, made: int, kind: str, count: int
) -> None:
    with door() as place:
        address = str(place.pipeline.address if protocol == "grpc" else place.pipeline.http_address)
        command = [
            program,
            signal,
            f"--{signal}",
            str(made),
            "--rate",
            "0",
            "--otlp-insecure",
            "--otlp-endpoint",
            address,
        ]
        command += ["--otlp-http"] if protocol == "http" else []
        done = subprocess.run(command, cwd=Path(program).parent, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert Counter((event.event_type, event.source) for event in place.events) == {(kind, "telemetrygen"): count}
    assert len({event.id for event in place.events}) == count
