"""What processes hold is found in /proc, and what there is more of at the end is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.bench.held import Held, held, kind_of, more, table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
# Take more of everything, a step for each line of the input.
GREEDY = """
import socket, sys
kept = []
steps = {
    "ports": lambda: kept.append(socket.create_server(("127.0.0.1", 0))),
    "files": lambda: kept.extend(open("/dev/null") for _ in range(60)),
    "memory": lambda: kept.append(b"x" * 150_000_000),
}
print("up", flush=True)
for line in sys.stdin:
    steps[line.strip()]()
    print("done", flush=True)
"""


@pytest.fixture
def greedy() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", GREEDY], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("step", "said"), [("ports", "1 ports"), ("files", "open files"), ("memory", " MB ")])
def test_what_a_process_takes_and_keeps_is_found_and_named(step: str, said: str, greedy: subprocess.Popen[str]) -> None:
    assert greedy.stdin is not None
    assert greedy.stdout is not None
    first = held([greedy.pid])
    assert more(first, held([greedy.pid])) == []
    print(step, file=greedy.stdin, flush=True)
    assert greedy.stdout.readline() == "done\n"
    last = held([greedy.pid])
    [leak] = more(first, last)
    assert said in leak
    assert len(table(first, last)) == 3


def test_a_process_that_has_ended_holds_nothing() -> None:
    assert held([2**22 + 1]) == {}


def test_actors_that_stay_are_named_and_other_processes_may_come_and_go() -> None:
    first = {"StageShell": Held(1, 50.0, 20, 1), "IDLE": Held(1, 50.0, 20, 1)}
    last = {"StageShell": Held(2, 100.0, 40, 2), "IDLE": Held(3, 150.0, 60, 3)}
    assert more(first, last) == ["StageShell: 2 processes (were 1)"]
    assert more(last, first) == []


def test_what_ray_keeps_of_actors_that_have_ended_is_none_of_theirs() -> None:
    first, last = Held(1, 50.0, 20, 1), Held(1, 350.0, 20, 1)
    assert more({"gcs_server": first}, {"gcs_server": last}, changes=300) == []
    assert more({"gcs_server": first}, {"gcs_server": last}, changes=100) == ["gcs_server: 350 MB (were 50)"]
    assert more({"IngestShell": first}, {"IngestShell": last}, changes=300) == ["IngestShell: 350 MB (were 50)"]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (b"ray::StageShell.push\0", "StageShell"),
        (b"ray::IDLE\0\0", "IDLE"),
        (b"/x/ray/core/src/ray/gcs/gcs_server\0--log_dir=/y", "gcs_server"),
        (b"/x/bin/python3\0-u\0/y/ray/_private/log_monitor.py\0--logs", "log_monitor.py"),
        (b"/x/bin/python3\0-m\0polku\0run\0pipeline.py", "polku"),
        (b"", "(ended)"),
    ],
)
def test_a_process_is_called_by_what_it_does(command: bytes, kind: str) -> None:
    assert kind_of(command) == kind
