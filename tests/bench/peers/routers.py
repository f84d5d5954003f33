"""The routers that are compared: pipelines of POLKU, and Collectors."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from polku.bench.processes import Usage, descendants, usage

_HERE = Path(__file__).parent
_START_SECONDS = 90.0
_STOP_SECONDS = 120.0
_CONFIG = """
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{port}", max_recv_msg_size_mib: 64}}}}}}
processors:
  filter:
    error_mode: ignore
    logs: {{log_record: ['HasPrefix(attributes["http.route"], "/debug")']}}
  attributes: {{actions: [{{key: env, value: production, action: insert}}]}}
exporters:
  otlp:
    endpoint: "127.0.0.1:{sink}"
    tls: {{insecure: true}}
    compression: none
    timeout: 60s
    sending_queue: {{enabled: {queue}}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [filter, attributes], exporters: [otlp]}}
"""


@dataclass(frozen=True, kw_only=True)
class Router:
    """What is compared: a name, and how it is started between a port and a sink."""

    name: str
    cores: int = 2
    runtime: str = "inline"
    environment: Mapping[str, str] = field(default_factory=dict)
    collector: str = ""
    queue: bool = False

    def command(self, port: int, sink: int, folder: Path) -> list[str]:
        """Return the command of its process."""
        if not self.collector:
            file = str(_HERE / "pipeline.py")
            address = f"127.0.0.1:{port}"
            options = ["--runtime", self.runtime, "--grpc-addr", address, "--admin-addr", "off"]
            return [sys.executable, "-m", "polku", "run", file, *options]
        text = _CONFIG.format(port=port, sink=sink, queue=str(self.queue).lower())
        (folder / "config.yaml").write_text(text)
        return [self.collector, "--config", str(folder / "config.yaml")]


class Running:
    """A router that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def usage(self) -> Usage:
        """Return the CPU seconds so far, and the private bytes, of its processes together."""
        every = [known for pid in (self.process.pid, *descendants(self.process.pid)) if (known := usage(pid))]
        return Usage(sum(one.cpu_seconds for one in every), sum(one.memory_bytes for one in every))


@contextmanager
def running(router: Router, sink: int) -> Iterator[Running]:
    """Start a router; raises `RuntimeError` with its log where it ends instead."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()
        log = Path(folder) / "log"
        environment = {"PEERS_SINK": f"http://127.0.0.1:{sink}", "RAY_ADDRESS": "local", **router.environment}
        command = [*_pinned(own_cores(router.cores)), *router.command(port, sink, Path(folder))]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})
        try:
            _wait_until_open(process, port, log)
            _check_cores(process.pid, own_cores(router.cores))
            yield Running(process, port, log)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
            process.wait()


def build_collector(folder: Path) -> str:
    """Build the Collector of its modules; return its path, or nothing where there is no Go."""
    if shutil.which("go") is None:
        return ""
    program = str(folder / "collector")
    environment = {**os.environ, "GOFLAGS": "-modcacherw"}
    subprocess.run(["go", "build", "-o", program, "."], cwd=_HERE / "collector", env=environment, check=True)
    return program


def own_cores(cores: int) -> set[int]:
    """Return the cores of a router: the first one alone, or all that there are."""
    every = os.sched_getaffinity(0)
    return {min(every)} if cores == 1 else every


def other_cores(cores: int) -> set[int]:
    """Return the cores of client and sink: those that are not the router's; all, where it has all."""
    every = os.sched_getaffinity(0)
    return (every - own_cores(cores)) or every


def _pinned(cores: Set[int]) -> Sequence[str]:
    return () if cores == os.sched_getaffinity(0) else ("taskset", "-c", ",".join(map(str, sorted(cores))))


def _check_cores(pid: int, cores: Set[int]) -> None:
    """Raise `RuntimeError` where a process of a router runs on other cores than it is to."""
    for one in (pid, *descendants(pid)):
        with suppress(ProcessLookupError):
            found = os.sched_getaffinity(one)
            if not found <= cores:
                raise RuntimeError(f"process {one} of the router runs on cores {sorted(found)}, not {sorted(cores)}")


def _wait_until_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the router did not start: {log.read_text(errors='replace')[-4000:]}")
