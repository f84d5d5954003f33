"""The container of `examples/deploy/Containerfile`, run by hand: what its file says, without an engine.

Its file system has this machine's libraries and this environment in place of what the build installs. All else is as
an engine makes it: a read-only root, /data and /tmp, another user without rights, and polku as PID 1.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import polku
from tests.deploy.test_manifests import CONTAINERFILE, DEPLOY
from tests.packaging.conftest import ROOT
from tests.support.ports import free_port
from tests.support.server import polku as polku_command

SCRIPT = Path(__file__).with_name("container.sh")
FINAL = CONTAINERFILE.rpartition("\nFROM ")[2].replace("\\\n", " ")


def _instruction(name: str) -> str:
    (found,) = re.findall(rf"^{name} (.*)$", FINAL, re.M)
    return str(found)


def _exec_form(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)


USER = _instruction("USER").partition(":")[0]
COMMAND = [*_exec_form(_instruction("ENTRYPOINT")), *_exec_form(_instruction("CMD"))]
VARIABLES = dict(entry.split("=", 1) for entry in shlex.split(_instruction("ENV")))
PATHS = [str(Path(polku.__file__).resolve().parents[1])]
PROGRAM = f'#!/bin/sh\nexec {sys.executable} -m polku "$@"\n'


def _may_unshare() -> bool:
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _may_unshare(), reason="namespaces are not allowed here")


# As Debian's images have it: a login shell forgets the PATH of the image.
PROFILE = 'PATH="/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"\nexport PATH\n'


def test_a_login_shell_which_kuberay_starts_finds_the_programs(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(PROFILE)
    links = [command for command in re.findall(r"^RUN (.*)$", FINAL, re.M) if command.startswith("ln ")]
    script = ["mount -t tmpfs none /usr/local/bin", "mount -t tmpfs none /opt", "mkdir -p /opt/polku/bin"]
    script += [f"mount --bind {tmp_path / 'profile'} /etc/profile"]
    script += [f"printf '#!/bin/sh\necho {name} is here' > /opt/polku/bin/{name}" for name in ("polku", "ray")]
    script += ["chmod +x /opt/polku/bin/*", *links]
    script += [f"exec setpriv --reuid={USER} --regid={USER} --clear-groups /bin/bash -lc -- 'polku && ray'"]
    path = next(value for name, value in VARIABLES.items() if name == "PATH").replace("$PATH", "/usr/bin:/bin")
    command = ["unshare", "--mount", "env", "-i", f"PATH={path}", "sh", "-ec", "\n".join(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "polku is here\nray is here\n"), done.stderr


class Container:
    """A running container; `pid` is that of its PID 1 outside of it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        root, image, self.data = (folder / name for name in ("root", "image", "data"))
        self.out, self.err = folder / "out", folder / "err"
        root.mkdir()
        (image / "opt" / "polku" / "bin").mkdir(parents=True)
        (image / "opt" / "polku" / "bin" / "polku").write_text(PROGRAM)
        (image / "opt" / "polku" / "bin" / "polku").chmod(0o755)
        (image / "app").mkdir()
        shutil.copy(DEPLOY / "pipeline.py", image / "app")
        self.data.mkdir(mode=0o700)
        os.chown(self.data, int(USER), int(USER))
        values = {**VARIABLES, **variables, "PYTHONPATH": os.pathsep.join(PATHS)}
        self.variables = [f"{name}={value.replace('$PATH', '/usr/bin:/bin')}" for name, value in values.items()]
        shared = " ".join(dict.fromkeys([sys.base_prefix, str(Path(sys.prefix).resolve()), str(ROOT), *PATHS]))
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", str(SCRIPT)]
        command += [str(root), str(image), str(self.data), shared, USER, *self._inside(COMMAND)]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)
        self.address = self.wait_for(r"ready on grpc (\S+)", 150)
        self.pid = int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def _inside(self, command: list[str]) -> list[str]:
        return ["env", "-i", *self.variables, *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user."""
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all"]
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--root", "--wd=/"]
        inside = [*enter, *user, *self._inside(list(command))]
        return subprocess.run(inside, capture_output=True, text=True, timeout=240)

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.err.read_text()):
                return found[1]
            assert self.process.poll() is None, self.err.read_text()
            time.sleep(0.05)
        raise AssertionError(self.err.read_text())

    def stop(self) -> int:
        """Send PID 1 a SIGTERM and return its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(120)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(120)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    running = Container(
        tmp_path,
        POLKU_GRPC_ADDR="127.0.0.1:0",
        POLKU_HTTP_ADDR="127.0.0.1:0",
        POLKU_ADMIN_ADDR=f"127.0.0.1:{free_port()}",
        JOURNAL="/data/journal.db",
    )
    yield running
    running.kill()


def test_polku_is_pid_1_of_a_read_only_root_without_rights_and_drains(container: Container) -> None:
    status = Path(f"/proc/{container.pid}/status").read_text()
    assert re.findall(r"^NSpid:.*\t(\d+)$", status, re.M) == ["1"]
    assert set(re.findall(r"^[UG]id:\t(.*)$", status, re.M)) == {"\t".join([USER] * 4)}
    assert re.findall(r"^Cap(?:Eff|Prm|Bnd):\t0*(\d+)$", status, re.M) == ["0", "0", "0"]
    assert "NoNewPrivs:\t1" in status

    for path in ("/x", "/app/x", "/opt/polku/x"):
        refused = container.run("sh", "-c", f": > {path}")
        assert refused.returncode != 0
        assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr
    assert container.run("sh", "-c", ": > /data/x && : > /tmp/x").returncode == 0
    health = container.run(*_exec_form(_instruction("HEALTHCHECK")))
    assert (health.returncode, health.stdout) == (0, "ready\n"), health.stderr

    sent = polku_command("send", "--to", container.address, "--type", "user.login", "--id", "event-1")
    assert sent.returncode == 0, sent.stderr
    assert (container.data / "journal.db").stat().st_uid == int(USER)
    assert container.stop() == 0
    assert "event-1" in container.out.read_text()
    assert "1 delivered, 0 dead letters, 0 dropped, 0 lost" in container.err.read_text()


def test_open_to_others_it_starts_and_is_ready_and_says_what_is_open(tmp_path: Path) -> None:
    running = Container(
        tmp_path,
        POLKU_GRPC_ADDR="0.0.0.0:0",
        POLKU_HTTP_ADDR="127.0.0.1:0",
        POLKU_ADMIN_ADDR=f"127.0.0.1:{free_port()}",
    )
    try:
        running.wait_for(r"(grpc 0\.0\.0\.0:\d+ is open to others without TLS)")
        assert running.run(*_exec_form(_instruction("HEALTHCHECK"))).returncode == 0
        assert running.stop() == 0
    finally:
        running.kill()


@pytest.mark.slow
def test_on_ray_it_is_the_same(tmp_path: Path) -> None:
    running = Container(
        tmp_path,
        POLKU_RUNTIME="ray",
        POLKU_GRPC_ADDR="127.0.0.1:0",
        POLKU_HTTP_ADDR="127.0.0.1:0",
        POLKU_ADMIN_ADDR="off",
        JOURNAL="/data/journal.db",
    )
    try:
        sent = polku_command("send", "--to", running.address, "--type", "user.login", "--id", "event-1")
        assert sent.returncode == 0, sent.stderr
        assert running.stop() == 0
        assert "event-1" in running.out.read_text()
    finally:
        running.kill()
