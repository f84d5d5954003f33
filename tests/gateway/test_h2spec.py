"""`h2spec`, the conformance suite of HTTP/2 and HPACK, against the native gRPC server, plain and with TLS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from polku import Hub, Tls
from tests.support.authority import Authority

_PACKAGE = "github.com/summerwind/h2spec/cmd/h2spec"
_VERSION = "v2.2.1+incompatible"
_CASES = 145


@pytest.fixture(scope="module")
def h2spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of the program; it is built from its Go module where Go and the module can be had."""
    if found := shutil.which("h2spec"):
        return found
    if not shutil.which("go"):
        pytest.skip("neither h2spec nor go is installed")
    folder = tmp_path_factory.mktemp("h2spec")
    environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "-modcacherw"}
    built = subprocess.run(
        ["go", "install", f"{_PACKAGE}@{_VERSION}"], env=environment, capture_output=True, text=True, timeout=240
    )
    if built.returncode:
        pytest.skip(f"h2spec cannot be built from its Go module: {built.stderr[-300:]}")
    return str(folder / "h2spec")


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_all_cases_pass(transport: str, h2spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLKU_DOOR", "native")
    hub, options = Hub(runtime="inline").emitter(lambda batch: None, name="nothing"), []
    if transport == "tls":
        server = Authority(tmp_path).issue()
        hub, options = hub.security(tls=Tls(server.cert, server.key)), ["-t", "-k"]
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        host, _, port = str(pipeline.address).rpartition(":")
        command = [h2spec, *options, "-h", host, "-p", port, "-P", "/polku.v1.Gateway/SendEvent", "-o", "5"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    assert found, done.stdout + done.stderr
    assert [int(number) for number in found.groups()] == [_CASES, _CASES, 0, 0], done.stdout
