"""A pipeline joins a Ray only where somebody says so, says which, and starts none behind anybody's back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ray._private.utils import check_version_info

from polku.actors.attachment import Choice, _start, _versions, _without_token_notice, choose, job_notice
from polku.errors import SettingError, UnavailableError
from tests.support.server import ON_BARE_RAY, Server, polku

PIPELINE = """
from polku import Hub
hub = Hub().emitter(lambda batch: None, name="out")
"""


@pytest.mark.parametrize(
    ("environment", "choice"),
    [
        ({}, Choice("", "")),
        ({"RAY_ADDRESS": ""}, Choice("", "")),
        ({"RAY_ADDRESS": "local"}, Choice("", "")),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, Choice("10.0.0.1:6379", "RAY_ADDRESS")),
        ({"RAY_ADDRESS": "auto"}, Choice("auto", "RAY_ADDRESS")),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, Choice("auto", "this program is a job of it")),
        ({"RAY_JOB_ID": "01000000"}, Choice("auto", "this program is a job of it")),
        ({"RAY_JOB_ID": "01000000", "RAY_ADDRESS": "local"}, Choice("", "")),
    ],
    ids=str,
)
def test_a_ray_is_joined_only_where_it_is_named(environment: Mapping[str, str], choice: Choice) -> None:
    assert choose(environment) == choice


def test_a_job_is_warned_that_it_is_killed_before_its_drain_ends() -> None:
    job = {"RAY_JOB_ID": "01000000"}
    assert "killed after 3 s, and a drain may take 30 s: start the nodes of Ray with RAY_JOB_STOP_WAIT_TIME_S=45" in (
        job_notice(job)
    )
    assert "after 10 s, and a drain may take 20 s" in job_notice(
        job | {"RAY_JOB_STOP_WAIT_TIME_S": "10", "POLKU_DRAIN_SECONDS": "20"}
    )
    assert job_notice(job | {"RAY_JOB_STOP_WAIT_TIME_S": "45"}) == job_notice(job | {"POLKU_DRAIN_SECONDS": "2"}) == ""
    assert job_notice({}) == ""


def test_ray_client_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        SettingError, match=r"RAY_ADDRESS='ray://head:10001': Ray Client cannot carry a pipeline; name HOST:PORT"
    ):
        choose({"RAY_ADDRESS": "ray://head:10001"})


def test_another_version_is_one_sentence() -> None:
    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.40.0", "python_version": "3.9.1"}, "node 10.0.0.1")
    sentence = _versions(str(caught.value))
    assert sentence.startswith("the cluster has Ray: 2.40.0 Python: 3.9.1, this program Ray: ")
    assert sentence.endswith("; both need the same Ray and Python")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--ray", "127.0.0.1:1"], 1, "RAY_ADDRESS='127.0.0.1:1': no Ray answers there ("),
        (["--ray", "nonsense"], 2, "RAY_ADDRESS='nonsense': write HOST:PORT, auto or local"),
        (["--ray", "local", "--runtime", "inline"], 2, "--ray='local': the inline runtime uses no Ray"),
        (["--ray", ""], 2, "--ray='': write HOST:PORT, or local to start one"),
    ],
)
def test_an_address_that_cannot_be_joined_is_one_line(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    done = polku("run", str(file), "--grpc-addr", "127.0.0.1:0", *arguments)  # this process may have joined a Ray
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"polku: {said}")


def children(pid: int, name: str) -> list[int]:
    """Return the processes that a process has started, by what their commands contain."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            command = folder.joinpath("cmdline").read_text()
        except OSError:
            continue
        if parent == pid and name in command:
            found.append(int(folder.name))
    return found


def run(folder: Path, command: Sequence[str] = (), **variables: str) -> Server:
    (folder / "pipeline.py").write_text(PIPELINE)
    return Server(folder, "run", f"{folder}/pipeline.py", "--grpc-addr", "127.0.0.1:0", command=command, **variables)


@pytest.mark.parametrize("failures", [1, 2])
def test_a_ray_that_is_late_is_started_again_once(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    late = Exception("The current node timed out during startup. This could happen because of this and that.")
    outcomes = [late] * failures + [None]
    started: list[Mapping[str, object]] = []

    def init(**options: object) -> None:
        started.append(options)
        if (error := outcomes.pop(0)) is not None:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if failures == 1:
        _start()
    else:
        with pytest.raises(UnavailableError, match="Ray did not start in time; try again"):
            _start()
    assert len(started) == 2


def test_that_ray_asks_for_a_token_is_no_news_and_that_it_asks_for_none_is(caplog: pytest.LogCaptureFixture) -> None:
    from ray._private.authentication import authentication_token_setup as of_ray

    with _without_token_notice():
        of_ray._warn_token_auth_enabled()
        of_ray._warn_token_auth_disabled()
    assert [record.getMessage().partition(" for ")[0] for record in caplog.records] == [
        "Token authentication is disabled"
    ]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("command", [ON_BARE_RAY, pytest.param((), marks=pytest.mark.slow)], ids=["bare", "whole"])
def test_without_a_word_a_pipeline_leaves_the_ray_of_this_machine_alone_and_its_own_outlives_a_hangup(
    command: Sequence[str], tmp_path: Path
) -> None:
    server = run(tmp_path, command, RAY_ADDRESS="", BARE_LOGS="1")
    try:
        before, *_ = server.err.read_text().partition("polku: ready")
        assert "started for this pipeline" in before
        assert before.count("\n") == 1  # neither Ray nor an actor has a word before that
        raylets = children(server.process.pid, "raylet")
        assert raylets
        for pid in raylets:
            os.kill(pid, signal.SIGHUP)  # as a terminal that closes does, to all of its processes
        assert polku("send", "--to", server.address, "--type", "x").returncode == 0
        assert server.stop() == 0
        assert "out: 1 delivered" in server.err.read_text()
    finally:
        server.stop(signal.SIGKILL)


@pytest.mark.usefixtures("ray_session")
def test_a_named_ray_is_joined_and_left_as_it_is(tmp_path: Path) -> None:
    import ray

    address = os.environ["RAY_ADDRESS"]
    server = run(tmp_path)
    try:
        assert f"at {address} (RAY_ADDRESS)" in server.err.read_text()
        assert not children(server.process.pid, "raylet")
        assert server.stop() == 0
    finally:
        server.stop(signal.SIGKILL)
    assert ray.nodes()[0]["Alive"]


@pytest.mark.parametrize("part", ["raylet", pytest.param("gcs_server", marks=pytest.mark.slow)])
def test_where_its_ray_is_gone_the_program_ends_at_once_with_a_line(part: str, tmp_path: Path) -> None:
    server = run(tmp_path, ON_BARE_RAY, RAY_ADDRESS="local")
    try:
        for pid in children(server.process.pid, part):
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        assert server.process.wait(120) == 3
        assert time.monotonic() - began < 90
        last = server.err.read_text().splitlines()[-1]
        assert last.startswith("polku: Ray is gone, and the pipeline with it: ")
        assert last.endswith("what the pipeline held in memory is not known; exit status 3")
    finally:
        server.stop(signal.SIGKILL)


SHUT_DOWN = """
import os, sys, time
import ray
from polku import Hub, new_event
from polku.errors import NotRunningError
from tests.support.ray_forks import forked_workers

forks = forked_workers()
forks.__enter__()
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
pipeline = Hub(runtime="ray").emitter(print).start()
sender = pipeline.sender()
assert sender.send(new_event("x")).ok
ray.shutdown()
for call in (lambda: sender.send(new_event("x")), pipeline.sender, pipeline.dead_letters, pipeline.stop):
    try:
        call()
    except NotRunningError as error:
        print(error)
print(pipeline.health().healthy, pipeline.health().components)
deadline = time.monotonic() + 30
while not pipeline.lost:
    assert time.monotonic() < deadline
    time.sleep(0.1)
time.sleep(2.5)  # for what still runs in the background to call Ray, if it did
print(ray.is_initialized())
sys.stdout.flush()
forks.__exit__(None, None, None)
os._exit(0)  # the threads that Ray leaves behind have crashed a program at its very end, once
"""


def test_after_the_application_has_shut_ray_down_nothing_starts_another_and_errors_are_ours() -> None:
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SHUT_DOWN],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    *raised, health, initialized = done.stdout.splitlines()[-6:]
    assert raised == ["Ray was shut down, and the pipeline with it; start the pipeline again"] * 4
    assert health.startswith("False {'ray': (False, 'Ray was shut down")
    assert initialized == "False"
