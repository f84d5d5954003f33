"""`polku doctor` sees what is there: sockets with who may reach them, limits, the clock, the journal's disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from polku.cli import doctor, sockets
from polku.cli.app import app
from polku.cli.sockets import Listener, listeners
from tests.external.test_ingest import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads what Linux lists")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may pass through, as pytest's own is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _mine() -> dict[str, Listener]:
    return {one.address: one for one in listeners(pids=(os.getpid(),)) if one.pid == os.getpid()}


@pytest.mark.parametrize(
    ("family", "host", "shown", "reach", "is_open"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1:{}", "every user of this machine", False),
        (socket.AF_INET, "0.0.0.0", "0.0.0.0:{}", "whoever reaches this machine, at any of its addresses", True),
        (socket.AF_INET6, "::1", "[::1]:{}", "every user of this machine", False),
        (socket.AF_INET6, "::", "[::]:{}", "whoever reaches this machine, at any of its addresses", True),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1:{}", "every user of this machine", False),
    ],
)
def test_a_port_is_seen_with_who_reaches_it(
    family: socket.AddressFamily, host: str, shown: str, reach: str, is_open: bool
) -> None:
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"{host} cannot be listened at: {error}")
    with server:
        found = _mine()[shown.format(server.getsockname()[1])]

    assert (found.owner, found.reach, found.is_open) == ("polku", reach, is_open)


@pytest.mark.parametrize(
    ("mode", "above", "reach"),
    [(0o600, 0o755, "{} alone"), (0o666, 0o755, "every user of this machine"), (0o666, 0o700, "{} alone")],
)
def test_a_unix_socket_is_seen_with_whom_its_modes_let_in(folder: Path, mode: int, above: int, reach: str) -> None:
    import pwd

    (folder / "in").mkdir()
    path = folder / "in" / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(mode)
        (folder / "in").chmod(above)
        found = _mine()[f"unix:{path}"]

    assert found.reach == reach.format(pwd.getpwuid(os.getuid()).pw_name)
    assert not found.is_open


@pytest.mark.parametrize(
    ("words", "owner"),
    [
        (["/usr/bin/python3", "/opt/x/bin/polku", "serve"], "polku"),
        (["/opt/x/bin/polku", "serve"], "polku"),
        (["python", "-m", "polku.bench.sink", "{}"], "polku"),
        (["python", "-u", "-m", "polku", "run"], "polku"),
        (["ray::Stage"], "ray"),
        (["/x/ray/core/src/ray/gcs/gcs_server", "--port=1"], "ray"),
        (["/usr/bin/python3", "/x/ray/dashboard/dashboard.py"], "ray"),
        (["/usr/bin/python3", "app.py", "polku"], ""),
        (["vi", "notes/polku"], ""),
        (["sshd"], ""),
    ],
    ids=str,
)
def test_processes_are_known_by_their_command_lines(words: list[str], owner: str) -> None:
    assert sockets._owner(words) == owner


def _doctor(*arguments: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    done = CliRunner().invoke(app.group, ["doctor", "--json", *arguments])
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["subject"], []).append(finding)
    return done.exit_code, found


def test_every_subject_is_there_and_the_status_says_what_is_to_be_done(tmp_path: Path) -> None:
    status, found = _doctor(str(tmp_path / "journal.db"))

    assert {
        "polku",
        "python",
        "packages",
        "files",
        "cpus",
        "memory",
        "clock",
        "journal",
        "disk",
        "sync",
    } <= found.keys()
    assert "ms to bring a page to the disk" in found["sync"][0]["text"]
    assert f"{tmp_path} is on" in found["journal"][0]["text"]
    assert status == int(any(one["fix"] for lines in found.values() for one in lines))


def test_a_gateways_ports_are_shown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = CliRunner().invoke(app.group, ["doctor", "--pid", str(os.getpid())])

    assert f"  polku    127.0.0.1:{port}" in done.stdout


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        ("nfs4", "a network file system may lie"),
        ("fuse.sshfs", "a network file system may lie"),
        ("lustre", "a network file system may lie"),
        ("virtiofs", "a network file system may lie"),
        ("tmpfs", "tmpfs is in memory"),
        ("ramfs", "ramfs is in memory"),
        ("overlay", "overlay is a container's"),
        ("ext4", ""),
    ],
)
def test_a_file_system_that_does_not_keep_a_journal_is_named(
    kind: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "mount_of", lambda path: (Path("/x"), kind))
    finding = next(iter(doctor._disk(tmp_path)))

    assert fix in finding.fix
    assert bool(finding.fix) == bool(fix)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app.group, ["doctor", str(tmp_path / "no" / "journal.db")])

    assert "there is no such folder" in str(done.exception)


def test_a_ray_that_asks_for_no_token_is_to_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def ray(*, is_open: bool, asks_token: bool) -> Listener:
        return Listener("ray", 1, "raylet", "0.0.0.0:1", "whoever", is_open, asks_token)

    def fixes(*found: Listener) -> list[str]:
        monkeypatch.setattr(doctor, "listeners", lambda pids: list(found))
        return [finding.text for finding in doctor._sockets(()) if finding.fix]

    assert fixes(ray(is_open=True, asks_token=True), ray(is_open=False, asks_token=False)) == []
    assert fixes(ray(is_open=True, asks_token=False)) == ["1 of its sockets are open to others without a token"]


def test_a_token_is_known_by_the_environment_of_the_process() -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    with subprocess.Popen(["sleep", "60"], env=environment) as process:
        try:
            environ = Path(f"/proc/{process.pid}/environ")
            eventually(environ.read_bytes)  # empty for a moment while the program is put in place
            assert sockets._asks_token(environ)
            assert not sockets._asks_token(Path("/proc/none/environ"))
        finally:
            process.kill()


def test_the_kernels_word_on_the_clock_is_that_of_other_tools() -> None:
    assert doctor._kernel_clock() in (True, False)
    if os.path.exists("/run/systemd/timesync/synchronized"):
        assert doctor._kernel_clock() is True
