"""One measurement: a sink, a pipeline and a generator, each in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from polku.bench.child import Child
from polku.bench.generator import Order
from polku.bench.result import Result, make_result
from polku.bench.workload import Workload

BUILT_IN = os.path.join(os.path.dirname(__file__), "pipelines.py")
_SETTLED_SECONDS = 2.0  # without anything new at the sink, although something is missing

Progress = Callable[[int], None]


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

    def order(self, epoch_ns: int) -> Order:
        """Return what a generator is told."""
        return Order(
            target="",
            workload=self.workload,
            epoch_ns=epoch_ns,
            batches=self.batches,
            seconds=self.seconds,
            rate=self.rate,
            in_flight=self.in_flight,
            connections=self.connections,
        )


def measure(
    subject: Subject, load: Load, progress: Progress = lambda acked: None, *, over_time: bool = False
) -> Result:
    """Measure once; raises `BenchError` where a process fails. `progress` gets the events acknowledged so far.

    With `over_time` the result has a timeline, for which the sink is asked five times a second.
    """
    timeline: list[tuple[float, int, int]] = []
    with session(subject, load) as running:
        before = running.usage()
        sent = running.send(load, progress, timeline if over_time else None)
        after = running.usage()
        report, got = running.stop()
    result = make_result(subject.label, load, sent, got, report, before, after, running.start_seconds)
    return replace(result, timeline=timeline, picture=running.picture)


class Session:
    """A pipeline that runs between a sink and the generators that are sent at it, one after the other."""

    def __init__(self, sink: Child, host: Child, ready: dict[str, str], start_seconds: float, epoch_ns: int) -> None:
        self.address = ready["address"]
        self.admin = ready.get("admin", "")
        self.picture = ready.get("picture", "")
        self.start_seconds = start_seconds
        self._sink = sink
        self._host = host
        self._epoch_ns = epoch_ns
        self._sent = 0

    def usage(self) -> dict[str, Any]:
        """Return CPU seconds and private bytes of each part so far."""
        return self._host.ask("usage")

    def commits(self) -> int | None:
        """Return the transactions of the journal so far; None where there is none, or none that can be looked at."""
        found: int | None = self._host.ask("commits")["commits"]
        return found

    def send(
        self,
        load: Load,
        progress: Progress = lambda acked: None,
        timeline: list[tuple[float, int, int]] | None = None,
    ) -> dict[str, Any]:
        """Send a load; wait until all that was acknowledged and not left out by rule has come, or nothing more does.

        A `timeline` gets seconds since the first message, and the events acknowledged and delivered until then.
        """
        order = asdict(load.order(self._epoch_ns)) | {"target": self.address, "first_batch": self._sent}
        with Child("generator", "polku.bench.generator", order) as generator:
            generator.read()
            before = self._sink.ask("counts")
            generator.write("go")
            began = time.monotonic()
            self._note(timeline, began, 0, before)
            while "result" not in (told := generator.read()):
                progress(told["acked"])
                self._note(timeline, began, told["acked"], before)
        sent: dict[str, Any] = told["result"]
        progress(sent["acked"])
        self._note(timeline, began, sent["acked"], before)
        self._sent += (sent["sent"] // load.workload.batch + 1) * load.connections  # one may be ahead of the others
        self._settle(before, sent["acked"] - sum(sent["dropped"].values()))
        return sent

    def stop(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Drain the pipeline; return its report, and what came to the sink by emitter."""
        report = self._host.stop()
        return report, self._sink.ask("result")

    def _note(
        self, timeline: list[tuple[float, int, int]] | None, began: float, acked: int, before: Mapping[str, int]
    ) -> None:
        """Note how many events have their answer, and have come from each emitter, on an average."""
        if timeline is None:
            return
        counts = self._sink.ask("counts")
        came = sum(counts.values()) - sum(before.values())
        timeline.append((round(time.monotonic() - began, 3), acked, came // max(len(counts), 1)))

    def _settle(self, before: dict[str, int], expected: int) -> None:
        seen, since = 0, time.monotonic()
        while time.monotonic() - since < _SETTLED_SECONDS:
            counts = self._sink.ask("counts")
            news = [count - before.get(name, 0) for name, count in counts.items()]
            if news and min(news) >= expected:
                return
            if sum(news) != seen:
                seen, since = sum(news), time.monotonic()
            time.sleep(0.02)


@contextmanager
def session(subject: Subject, load: Load) -> Iterator[Session]:
    """Start a sink and a pipeline for loads of this workload and so many connections."""
    epoch_ns = time.time_ns() - time.monotonic_ns()
    order = {**asdict(load.order(epoch_ns)), "check": subject.file.startswith(BUILT_IN)}
    with Child("sink", "polku.bench.sink", order) as sink:
        port = sink.read()["port"]
        began = time.monotonic()
        with _host(subject, port) as host:
            ready = host.read()
            yield Session(sink, host, ready, time.monotonic() - began, epoch_ns)


def _host(subject: Subject, port: int) -> Child:
    sink = f"http://127.0.0.1:{port}"
    order = {"file": subject.file, "runtime": subject.runtime, "keep": subject.keep, "sink": sink}
    # A Ray of its own, unless another is asked for: one that runs already may have its actors anywhere.
    environment = {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "local"), **subject.environment}
    return Child("pipeline", subject.module, order, answers=True, POLKU_BENCH_SINK=sink, **environment)
