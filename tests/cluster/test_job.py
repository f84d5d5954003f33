"""A pipeline as a job of Ray: `ray job submit` starts it, `ray job stop` drains it where Ray gives it the time."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import AGAIN
from tests.cluster.hosts import Host, hosts, wait_until, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
BIN = Path(sys.executable).parent
RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "PATH": f"{BIN}:{os.environ['PATH']}",
}
JOBS = "http://127.0.0.1:8265"
# Delivers as slowly as a drain needs to take longer than the 3 s after which Ray kills a job.
PIPELINE = """
import time
from polku import Hub

def write(batch):
    for event in batch.events:
        time.sleep(0.1)
        with open("/mnt/data/out", "a") as file:
            file.write(event.id + "\\n")

hub = Hub().emitter(write, name="out")
"""
EVENTS = 150


def _start(host: Host, folder: Path, **environment: str) -> None:
    command = ["ray", "start", "--head", "--block", "--port=6379", "--temp-dir=/mnt/ray", "--num-cpus=2"]
    command += ["--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--node-ip-address={host.address}"]
    host.start("bash", "-c", AGAIN, "ray", *command, log=folder / "ray.log", **RAY, **environment)
    try:
        wait_until(lambda: "[]" in _job(host, "list"), "Ray's jobs", 240)  # none yet
    except AssertionError as error:
        raise AssertionError(f"{error}; Ray said:\n{(folder / 'ray.log').read_text()}") from None


def _job(host: Host, action: str, *arguments: str) -> str:
    """Return what `ray job` prints; nothing where it fails."""
    return host.run("ray", "job", action, "--address", JOBS, *arguments, check=False, **RAY)


def _submit(host: Host) -> None:
    """Have the documents' command start the pipeline, and send it events."""
    (host.disk / "job").mkdir()
    (host.disk / "job" / "pipeline.py").write_text(PIPELINE)
    command = ["polku", "run", "pipeline.py", "--runtime", "ray", "--lanes", "per-node", "--grpc-addr", "0.0.0.0:50051"]
    options = ["--no-wait", "--submission-id", "polku", "--working-dir", "/mnt/data/job"]
    _job(host, "submit", *options, "--", *command, "--insecure")
    wait_until(lambda: "polku: ready" in _job(host, "logs", "polku"), "the pipeline", 150)
    lines = "".join(json.dumps({"id": f"e{n}", "event_type": "order"}) + "\n" for n in range(EVENTS))
    (host.disk / "events").write_text(lines)
    host.run("polku", "send", "--to", f"{host.address}:50051", "/mnt/data/events", check=True, **RAY)


def _written(host: Host) -> list[str]:
    file = host.disk / "out"
    return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize("patient", [True, False], ids=["with the variable", "without"])
def test_a_job_that_is_stopped_drains_where_ray_gives_it_time_and_is_warned_where_not(
    patient: bool, tmp_path: Path
) -> None:
    with hosts(1, tmp_path) as [host]:
        _start(host, tmp_path, **({"RAY_JOB_STOP_WAIT_TIME_S": "45"} if patient else {}))
        _submit(host)
        wait_until(lambda: _written(host), "the first event")
        print(said := _job(host, "stop", "polku") + _job(host, "logs", "polku"))
        assert ("start the nodes of Ray with RAY_JOB_STOP_WAIT_TIME_S=45" in said) != patient
        assert ("polku: stopped after" in said) == patient
        written = _written(host)
        assert written == [f"e{n}" for n in range(len(written))]  # each once, in order
        assert (len(written) == EVENTS) == patient
