"""The pipelines of this user on this machine, and how commands find them."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from pathlib import Path
from unittest import mock

import pytest

from polku import Batch, Hub, Pipeline
from polku.monitoring import run_files
from polku.monitoring.run_files import RunFile, RunningPipeline, running
from tests.support.server import Server, polku, polku_here

HUB = """
from polku import Hub, StdoutEmitter
hub = Hub(name="shop").emitter(StdoutEmitter())
"""


def partner(batch: Batch) -> None:
    """Take everything."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that has the files, of this test alone."""
    monkeypatch.setattr(run_files, "_folders", lambda: [tmp_path / "polku"])
    return tmp_path / "polku"


def a_pipeline(name: str = "shop", pid: int = 0, admin: str = "127.0.0.1:9") -> RunningPipeline:
    return RunningPipeline(name, "/x.py", "inline", "", "", admin, "key", pid or os.getpid(), time.time(), "1")


def start(name: str) -> Pipeline:
    return Hub(name=name, runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0")


def test_a_pipeline_is_listed_while_it_runs(folder: Path) -> None:
    with start("shop") as pipeline:
        (one,) = running()
        assert (one.name, one.runtime, one.admin, one.pid) == ("shop", "inline", pipeline.admin_address, os.getpid())
        (file,) = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert running() == []
    assert list(folder.iterdir()) == []


def test_a_pipeline_without_an_open_port_is_not_listed(folder: Path) -> None:
    with Hub(runtime="inline").emitter(partner).start():
        assert running() == []


def test_a_file_that_nobody_holds_is_removed_although_its_process_lives(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "1-a.json").write_text(json.dumps(a_pipeline(pid=os.getpid())._asdict()))
    (folder / "2-b.json").write_text("{")
    assert running() == []
    assert list(folder.iterdir()) == []


def test_a_file_whose_process_is_gone_is_removed_although_a_child_of_it_holds_it(folder: Path) -> None:
    gone = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(gone, 0)
    file = RunFile(a_pipeline(pid=gone))
    assert running() == []
    file.close()


def test_a_directory_that_others_can_write_is_not_trusted(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    file = RunFile(a_pipeline())
    folder.chmod(0o777)
    assert running() == []
    other = RunFile(a_pipeline("other"))
    folder.chmod(0o700)
    assert [one.name for one in running()] == ["shop"]
    file.close()
    other.close()


def test_commands_ask_the_only_pipeline_or_the_one_that_is_named(folder: Path) -> None:
    with start("shop") as pipeline:
        assert polku_here("health").stdout == "ready\n"
        with start("audit"):
            several = polku_here("health")
            assert (several.returncode, "several pipelines run here" in several.stderr) == (2, True)
            assert f"{pipeline.admin_address} (shop)" in several.stderr
            assert polku_here("health", "--to", "audit").stdout == "ready\n"
            assert polku_here("health", POLKU_ADMIN_ADDR=str(pipeline.admin_address)).stdout == "ready\n"
            nobody = polku_here("health", "--to", "nobody")
            assert (nobody.returncode, "a pipeline's name; here run" in nobody.stderr) == (2, True)


def test_a_port_alone_is_one_of_this_machine(folder: Path) -> None:
    with start("shop") as pipeline:
        assert polku_here("health", "--to", str(pipeline.admin_address).rpartition(":")[2]).stdout == "ready\n"


def test_an_address_that_is_open_to_others_is_found_by_its_names_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLKU_ADMIN_TOKEN", raising=False)  # commands of its user know the key
    hub = Hub(runtime="inline").emitter(partner)
    with hub.start(admin_addr="0.0.0.0:0", admin_token="s3cret") as pipeline:
        port = str(pipeline.admin_address).rpartition(":")[2]
        for to in (port, f"127.0.0.1:{port}", f"http://localhost:{port}/"):
            assert polku_here("health", "--to", to).stdout == "ready\n", to


@pytest.mark.parametrize("door", ["native", "grpcio"])
@pytest.mark.parametrize("command", ["health", "reload", "tap"])
def test_ports_of_the_gateway_are_told_apart_from_the_admin_address(folder: Path, command: str, door: str) -> None:
    hub = Hub(runtime="inline").emitter(partner)
    with (
        mock.patch.dict(os.environ, POLKU_DOOR=door),
        hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline,
    ):
        http, grpc = (polku_here(command, "--to", str(to)) for to in (pipeline.http_address, pipeline.address))
    assert (http.returncode, grpc.returncode) == (1, 1)
    assert "this is the gateway's HTTP port, and not the admin address: `polku ps`" in http.stderr
    kind = "the gateway's gRPC port, and not the" if door == "native" else "no"
    assert re.search(f"is {kind} admin address: `polku ps`", grpc.stderr)


def test_a_unix_socket_is_asked_too(folder: Path, tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/admin.sock"
    with Hub(runtime="inline").emitter(partner).start(admin_addr=path):
        assert polku_here("health").stdout == "ready\n"
        assert polku_here("health", "--to", path).stdout == "ready\n"


def test_a_list_says_how_each_is(folder: Path) -> None:
    with start("shop") as pipeline:
        silent = RunFile(a_pipeline("gone"))
        (first, second) = map(json.loads, polku_here("ps", "--json").stdout.splitlines())
        titles, *rows = polku_here("ps").stdout.splitlines()
        silent.close()
    assert (first["name"], first["admin"], first["state"]) == ("shop", pipeline.admin_address, "ready")
    assert (second["name"], second["state"].partition(":")[0]) == ("gone", "does not answer")
    assert "key" not in first
    assert titles.split() == ["NAME", "PID", "UP", "RUNTIME", "GRPC", "HTTP", "ADMIN", "FILE", "STATE"]
    assert [row.split()[0] for row in rows] == ["shop", "gone"]


def test_processes_are_listed_with_their_file_and_not_when_they_were_killed(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(HUB)
    own = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    server = Server(tmp_path, "run", str(tmp_path / "shop.py"), "--runtime=inline", "--grpc-addr=127.0.0.1:0", **own)
    listed = json.loads(polku("ps", "--json", **own).stdout)
    assert (listed["name"], listed["file"], listed["state"]) == ("shop", str(tmp_path / "shop.py"), "ready")
    assert (listed["grpc"], listed["pid"]) == (server.address, server.process.pid)
    assert server.err.read_text().startswith("polku: ready on ")  # the first thing that a newcomer reads
    server.stop(signal.SIGKILL)
    assert polku("ps", **own).stderr == "polku: no pipeline of this user runs here\n"


def test_one_without_a_file_is_listed_with_its_command(tmp_path: Path) -> None:
    own = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0", **own)
    listed = polku("ps", **own).stdout
    server.stop()
    assert "  polku serve  ready\n" in listed
