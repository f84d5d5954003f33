"""One measurement: a sink, a pipeline and a generator, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from polku.bench.generator import Order
from polku.bench.result import Result, make_result
from polku.bench.workload import Workload
from polku.errors import PolkuError

BUILT_IN = os.path.join(os.path.dirname(__file__), "pipelines.py")
_SETTLED_SECONDS = 2.0  # without anything new at the sink, although something is missing
_STOP_SECONDS = 60.0

Progress = Callable[[int], None]


class BenchError(PolkuError):
    """Say which process of a measurement failed, its exit status, and what it printed."""

    def __init__(self, process: str, status: int, said: str) -> None:
        super().__init__(process, status, said)
        self.process = process
        self.status = status
        self.said = said

    def __str__(self) -> str:
        return self.said if self.status == 2 else f"the {self.process} ended with status {self.status}: {self.said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured: a pipeline file on a runtime; with `keep` its emitters are left as they are.

    `environment` is added to that of the pipeline's process; `module` is what runs in it.
    """

    file: str = BUILT_IN
    runtime: str = "inline"
    keep: bool = False
    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    module: str = "polku.bench.host"

    @property
    def label(self) -> str:
        """Its name for people."""
        if self.name:
            return self.name
        built_in = self.file.removeprefix(BUILT_IN)
        name = f"built-in{built_in}" if self.file.startswith(BUILT_IN) else self.file
        return f"{name}, {self.runtime}"


BARE = Subject(name="bare gRPC", module="polku.bench.bare")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent: `events` of them (rounded up to whole batches) or for `seconds`; `rate` 0 is a closed loop."""

    workload: Workload = field(default_factory=Workload)
    events: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    in_flight: int = 32
    connections: int = 1

    @property
    def batches(self) -> int:
        """The number of messages; 0 where time limits them."""
        return -(-self.events // self.workload.batch)


def measure(subject: Subject, load: Load, progress: Progress = lambda acked: None) -> Result:
    """Measure once; raises `BenchError` where a process fails. `progress` gets the events acknowledged so far."""
    epoch_ns = time.time_ns() - time.monotonic_ns()
    order = Order(
        target="",
        workload=load.workload,
        epoch_ns=epoch_ns,
        batches=load.batches,
        seconds=load.seconds,
        rate=load.rate,
        in_flight=load.in_flight,
        connections=load.connections,
    )
    check = subject.file.startswith(BUILT_IN)
    with _sink(order, check) as sink, _host(subject, sink.port) as host:
        began = time.monotonic()
        address = host.read()["address"]
        start_seconds = time.monotonic() - began
        with Child("generator", "polku.bench.generator", {**asdict(order), "target": address}) as generator:
            generator.read()
            before = host.ask("usage")
            sent = _run(generator, progress)
        _settle(sink, sent)
        after = host.ask("usage")
        report = host.stop()
        got = sink.ask("result")
    return make_result(subject.label, load, sent, got, report, before, after, start_seconds)


class Child:
    """A process that answers in lines of JSON; what it writes to standard error is shown where it fails."""

    def __init__(self, name: str, module: str, order: dict[str, Any], *, answers: bool = False, **env: str) -> None:
        self._name = name
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        readable = None
        descriptors: tuple[int, ...] = ()
        if answers:
            readable, writable = os.pipe()
            descriptors = (writable,)
            order = {**order, "answers": writable}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if answers else subprocess.PIPE,
            stderr=self._errors,
            pass_fds=descriptors,
            env={**os.environ, **env},
            text=True,
        )
        for descriptor in descriptors:
            os.close(descriptor)
        self._answers: IO[str] = os.fdopen(readable) if readable is not None else self._process.stdout  # type: ignore[assignment]
        self.port = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS if error[0] is None else 10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._answers, self._errors):
            if stream is not None:
                stream.close()

    def read(self) -> dict[str, Any]:
        """Return the next line; raises `BenchError` where the process has ended instead."""
        line = self._answers.readline()
        if not line:
            self._process.wait(_STOP_SECONDS)
            self._errors.seek(0)
            said = self._errors.read().strip()[-4000:]
            raise BenchError(self._name, self._process.returncode, said)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def write(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `read` says why

    def ask(self, line: str) -> dict[str, Any]:
        """Send it a line and return the answer."""
        self.write(line)
        return self.read()

    def stop(self) -> dict[str, Any]:
        """Ask it to drain, wait for its end, and return its last word."""
        self._process.terminate()
        last = self.read()
        self._process.wait(_STOP_SECONDS)
        return last


@contextmanager
def _sink(order: Order, check: bool) -> Iterator[Child]:
    with Child("sink", "polku.bench.sink", {**asdict(order), "check": check}) as sink:
        sink.port = sink.read()["port"]
        yield sink


def _host(subject: Subject, port: int) -> Child:
    sink = f"http://127.0.0.1:{port}"
    order = {"file": subject.file, "runtime": subject.runtime, "keep": subject.keep, "sink": sink}
    # A Ray of its own, unless another is asked for: one that runs already may have its actors anywhere.
    environment = {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "local"), **subject.environment}
    return Child("pipeline", subject.module, order, answers=True, POLKU_BENCH_SINK=sink, **environment)


def _run(generator: Child, progress: Progress) -> dict[str, Any]:
    generator.write("go")
    while "result" not in (told := generator.read()):
        progress(told["acked"])
    result: dict[str, Any] = told["result"]
    progress(result["acked"])
    return result


def _settle(sink: Child, sent: dict[str, Any]) -> None:
    """Wait until all that was acknowledged and not left out by rule has come, or nothing more does."""
    expected = sent["acked"] - sum(sent["dropped"].values())
    seen, since = 0, time.monotonic()
    while time.monotonic() - since < _SETTLED_SECONDS:
        counts = sink.ask("counts")
        if counts and min(counts.values()) >= expected:
            return
        if sum(counts.values()) != seen:
            seen, since = sum(counts.values()), time.monotonic()
        time.sleep(0.02)
