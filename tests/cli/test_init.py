"""`polku init` writes a project that works as its README says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from polku.cli import init
from tests.support.server import environment, polku, polku_here

BIN = Path(sys.executable).parent
HTTP = b'{"event_type": "user.login", "source": "curl"}'


def _make(folder: Path, *arguments: str, timeout: float = 100, **variables: str) -> str:
    command = ["make", f"PYTHON={sys.executable}", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _run(folder: Path, *arguments: str) -> str:
    """Have `make run` start a gateway, send it an event each way, end it as Ctrl-C does, and return what it printed."""
    ports = {"POLKU_GRPC_ADDR": "127.0.0.1:0", "POLKU_HTTP_ADDR": "127.0.0.1:0", "POLKU_ADMIN_ADDR": "off"}
    out, err = folder / "out", folder / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        make = subprocess.Popen(
            ["make", "run", *arguments],
            cwd=folder,
            env=environment(**ports),
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while not (ready := re.search(r"ready on grpc (\S+) and http (\S+)", err.read_text())):
                assert time.monotonic() < deadline, err.read_text()
                assert make.poll() is None, err.read_text()
                time.sleep(0.05)
            sent = polku("send", "--to", ready[1], "--type", "user.logout")
            assert sent.returncode == 0, sent.stderr
            request = urllib.request.Request(f"http://{ready[2]}/v1/events", data=HTTP)
            request.add_header("Content-Type", "application/json")
            assert urllib.request.urlopen(request, timeout=30).status == 200
            os.killpg(make.pid, signal.SIGINT)
            make.wait(120)
        finally:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGKILL)
                make.wait()
    assert "2 delivered, 0 dead letters, 0 dropped, 0 lost" in err.read_text()
    return out.read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "Orders Gateway"
    done = polku("init", str(folder))
    assert done.returncode == 0, done.stderr
    assert str(folder / "pipeline.py") in done.stdout
    return folder


def test_make_test_passes(project: Path) -> None:
    assert "1 passed" in _make(project, f"BIN={BIN}", "test")


def test_make_run_serves_both_ports_and_keeps_a_journal(project: Path) -> None:
    printed = _run(project, f"BIN={BIN}")

    assert "user.logout" in printed
    assert '"gateway":"orders-gateway"' in printed
    assert (project / "data" / "journal.db").exists()


def test_make_check_builds_the_plan(project: Path) -> None:
    assert "destination: StdoutEmitter" in _make(project, f"BIN={BIN}", "check")


def test_the_files_fit_together(project: Path) -> None:
    texts = {path.name: path.read_text() for path in project.iterdir() if path.is_file()}
    assert [name for name, text in texts.items() if "{{" in text] == []
    assert set(re.findall(r"^COPY (?!--)(\S+?)/? ", texts["Containerfile"], re.M)) == {"wheels", "pipeline.py"}
    assert "!wheels\n!pipeline.py" in texts[".dockerignore"]
    gateway = yaml.safe_load(texts["compose.yaml"])["services"]["gateway"]
    assert (gateway["image"], gateway["read_only"]) == ("orders-gateway", True)
    assert gateway["volumes"] == ["data:/data"]
    assert "POLKU_INSECURE" not in texts["Containerfile"]  # whether open ports are meant, who runs the image says
    assert gateway["environment"]["POLKU_INSECURE"] == "1"
    assert "WatchdogSec=" in texts["orders-gateway.service"]
    assert texts["requirements.txt"].startswith("polku @ file://")


def test_ray_is_for_who_asks_for_it(tmp_path: Path) -> None:
    assert polku_here("init", str(tmp_path / "it"), "--runtime", "ray").returncode == 0
    assert "--runtime ray" in (tmp_path / "it" / "Makefile").read_text()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = polku_here("init", str(tmp_path))
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [tmp_path / "mine"])
    assert "is not empty; name a folder that is, or a new one" in done.stderr
    wrong = polku_here("init", str(tmp_path / "new"), "--runtime", "rust")
    assert (wrong.returncode, "choose one of ray, inline" in wrong.stderr) == (2, True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_one(project: Path, tmp_path: Path) -> None:
    text = (project / "orders-gateway.service").read_text()
    unit = tmp_path / "orders-gateway.service"
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_requirement_is_where_polku_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        version = "0.2.0"

        def __init__(self, url: str) -> None:
            self.url = url

        def read_text(self, name: str) -> str | None:
            return f'{{"url": "{self.url}"}}' if self.url else None

    monkeypatch.setattr(init, "distribution", lambda name: Found("file:///x/polku-0.2.0-py3-none-any.whl"))
    assert init.requirement() == "polku @ file:///x/polku-0.2.0-py3-none-any.whl"
    monkeypatch.setattr(init, "distribution", lambda name: Found(""))
    assert init.requirement() == "polku==0.2.0"


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_the_project_sets_up_its_own_environment(tmp_path: Path) -> None:
    from tests.packaging.conftest import ROOT
    from tests.packaging.test_release import release

    assert list(release.build(tmp_path / "dist")) == []
    (wheel,) = (tmp_path / "dist").glob("polku_core-*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip: list[str | Path] = [
        tmp_path / "venv/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        ROOT / ".ci/constraints.txt",
        wheel,
    ]
    subprocess.run(pip, check=True)
    subprocess.run([tmp_path / "venv/bin/polku", "init", tmp_path / "it"], cwd=tmp_path, check=True)

    assert "1 passed" in _make(tmp_path / "it", "test", timeout=600)
    assert "user.logout" in _run(tmp_path / "it")
    assert "polku-core @ file://" in (tmp_path / "it" / "requirements.txt").read_text()
    _make(tmp_path / "it", "wheels", timeout=300)
    assert [path.name for path in (tmp_path / "it" / "wheels").iterdir()] == [wheel.name]
