"""Run a pipeline under load, do it harm at random, and let the oracle judge."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from polku.testing import Oracle, Verdict
from tests.chaos.client import Client
from tests.chaos.files import Reader
from tests.support.ports import free_port
from tests.support.server import ON_BARE_RAY, POLKU

SHELLS = ("ingest", "stage", "emitter", "supervisor")
_MOODS = ("slow", "flapping", "full", "garbage", "silent")


def shell_of(kind: str) -> str:
    """Return the name of the class that the actor of a part is of, which its process shows."""
    return f"{kind.capitalize()}Shell"


class Outcome(NamedTuple):
    """What a run was, and what came of it; `gaps` are the longest times without a delivery after a fault, by kind."""

    runtime: str
    buffer: str
    seed: int
    seconds: float
    verdict: Verdict
    faults: dict[str, int]
    faults_in_flight: int
    resent: int
    breaks: int
    refused: int
    gaps: dict[str, float]

    def __str__(self) -> str:
        gaps = ", ".join(f"{kind} {gap:.1f} s" for kind, gap in sorted(self.gaps.items()))
        return (
            f"{self.runtime}/{self.buffer} seed {self.seed}: {self.seconds:.0f} s; {self.verdict}; "
            f"faults {dict(sorted(self.faults.items()))}, {self.faults_in_flight} with events in flight; "
            f"clients: {self.breaks} broken streams, {self.resent} batches sent again, {self.refused} events refused; "
            f"longest pause: {gaps}"
        )


class Chaos:
    """One run: a pipeline and its sink in processes of their own, two clients here.

    On Ray lanes come and go at random, `lanes` at most. A client whose stream ends may be in another one then, so order
    is kept within each of its streams alone.
    """

    def __init__(
        self,
        folder: Path,
        runtime: str,
        buffer: str,
        seed: int,
        rate: float = 4_000.0,
        *,
        lanes: int = 1,
        **environment: str,
    ) -> None:
        self.lanes = lanes
        self.environment = environment
        self.folder, self.runtime, self.buffer, self.seed = folder, runtime, buffer, seed
        self.random = random.Random(seed)
        self.port, self.sink_port = free_port(), free_port()
        self.mark = f"chaos-{os.getpid()}-{seed}-{time.time_ns()}"
        self.oracle = Oracle(["file", "grpc"], ordered=["file"], seed=seed)
        self.lock = threading.Lock()
        address = f"127.0.0.1:{self.port}"
        self.clients = [Client(address, self.oracle, self.lock, f"c{n}", rate / 2) for n in range(2)]
        self.readers = {name: Reader(folder, name) for name in ("file", "grpc")}
        self.faults: Counter[str] = Counter()
        self.faults_in_flight = 0
        self.gaps: dict[str, float] = {}
        self.arrived = dict.fromkeys(self.readers, 0)
        self._pauses = dict.fromkeys(self.readers, 0.0)
        self._latest = dict.fromkeys(self.readers, time.monotonic())
        self._deck: list[Callable[[], str]] = []
        self.pipeline: subprocess.Popen[bytes] | None = None
        self.sink: subprocess.Popen[bytes] | None = None
        self._stopped: list[int] = []
        self.ended = True
        self.starts = self.version = 0
        (folder / "version").write_text("0")
        (folder / "lanes").write_text("1")

    def run(self, seconds: float, pause: float = 3.0) -> Outcome:
        """Do harm for so long, about every `pause` seconds (0: none), then let everything rest, and judge."""

        def harm() -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                if pause:
                    self.harm()
                self.watch(self.random.uniform(0.3, pause or 1.0))

        return self.run_under_load(harm)

    def run_under_load(self, work: Callable[[], None]) -> Outcome:
        """Do some work while clients send, then let everything rest, and judge."""
        started = time.monotonic()
        try:
            self.start_sink()
            self.start_pipeline()
            self.wait_ready()
            for client in self.clients:
                client.start()
            self.ended = False
            self.wait_until(lambda: min(self.arrived.values()) > 500, 60, "the first events")
            work()
            self.come_to_rest()
        finally:
            self.end()
        verdict = self.oracle.verdict()
        clients = self.clients
        return Outcome(
            *(self.runtime, self.buffer, self.seed, time.monotonic() - started, verdict, dict(self.faults)),
            self.faults_in_flight,
            sum(client.resent for client in clients),
            sum(client.breaks for client in clients),
            sum(client.refused for client in clients),
            self.gaps,
        )

    def harm(self) -> None:
        """Do the next thing of a shuffled deck, and wait until events arrive everywhere again."""
        if not self._deck:
            self._deck = self._kinds()
            self.random.shuffle(self._deck)
        with self.lock:
            under_way = self.oracle.sent * len(self.arrived) - sum(self.arrived.values())
        self._pauses = dict.fromkeys(self.readers, 0.0)
        kind = self._deck.pop()()
        if not kind:
            return
        self.faults[kind] += 1
        self.faults_in_flight += under_way > 0
        self.look()
        seen = dict(self.arrived)
        self.wait_until(lambda: all(self.arrived[n] > seen[n] for n in seen), 90, f"events after {kind}")
        self.gaps[kind] = max(self.gaps.get(kind, 0.0), *self._pauses.values())

    def _kinds(self) -> list[Callable[[], str]]:
        kinds: list[Callable[[], str]] = [self.kill_sink, *(partial(self.change_mood, mood) for mood in _MOODS)]
        kinds += 3 * [self.reload]
        if self.lanes > 1:
            kinds += [*(4 * [self.scale]), *(partial(self.scale, kind) for kind in ("ingest", "stage", "emitter"))]
        if self.runtime == "ray":
            kinds += [partial(self.reload, kind) for kind in ("stage", "emitter")]
            kinds += [*(partial(self.kill_actor, kind) for kind in SHELLS), self.stop_emitter]
        if self.buffer == "durable":
            kinds += [self.kill_everything]
            if self.runtime == "ray":
                kinds += [partial(self.kill_actor, "buffer")]
        return kinds

    def kill_actor(self, kind: str) -> str:
        pids = self.pids(shell_of(kind))
        if not pids:
            return ""
        os.kill(self.random.choice(pids), signal.SIGKILL)
        return f"SIGKILL {kind}"

    def stop_emitter(self) -> str:
        """Hold an emitter still for a while (SIGSTOP), longer than it has to answer in."""
        pids = self.pids("EmitterShell")
        if not pids:
            return ""
        pid = self.random.choice(pids)
        os.kill(pid, signal.SIGSTOP)
        self._stopped.append(pid)
        self.watch(self.random.uniform(1, 4))
        self.wake()
        return "SIGSTOP emitter"

    def kill_everything(self) -> str:
        """Kill every process of the pipeline at once, and start it again."""
        for pid in self.pids(""):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.pipeline is not None
        self.pipeline.wait(30)
        (self.folder / "lanes").write_text(str(self.lanes))  # one that was leaving has left its journal
        self.start_pipeline()
        self.wait_ready()
        return "SIGKILL everything"

    def scale(self, victim: str = "") -> str:
        """Have the pipeline run another number of lanes; kill an actor of the kind of `victim` in the middle."""
        (self.folder / "lanes").write_text(str(self.random.randint(1, self.lanes)))
        return self.reload(victim).replace("reload", "lanes")

    def reload(self, victim: str = "") -> str:
        """Have the pipeline run another version of its file; kill an actor of the kind of `victim` in the middle."""
        self.version += 1
        (self.folder / "version").write_text(str(self.version))
        command = [sys.executable, "-m", "polku", "reload", "--to", f"unix:{self.folder}/admin"]
        with (self.folder / "reload.log").open("ab") as log:
            asked = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, stdout=log, stderr=log)
        if victim:
            self.watch(self.random.uniform(0, 3))
            self.kill_actor(victim)
        self.wait_until(lambda: asked.poll() is not None, 180, "the reload to end")
        done = "reload" if asked.returncode == 0 else "reload refused"
        return f"{done}, SIGKILL {victim}" if victim else done

    def kill_sink(self) -> str:
        assert self.sink is not None
        self.sink.kill()
        self.sink.wait(30)
        self.watch(self.random.uniform(0, 2))
        self.start_sink()
        return "SIGKILL destination"

    def change_mood(self, mood: str) -> str:
        (self.folder / "sink.mood").write_text(mood)
        self.watch(self.random.uniform(1, 3))
        (self.folder / "sink.mood").unlink()
        return f"destination {mood}"

    def wake(self) -> None:
        while self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._stopped.pop(), signal.SIGCONT)

    def watch(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.look()
            time.sleep(0.05)

    def look(self) -> None:
        """Tell the oracle what has arrived meanwhile."""
        for name, reader in self.readers.items():
            for events in reader.read():
                with self.lock:
                    self.oracle.delivered(name, events)
                self.arrived[name] += len(events)
                now = time.monotonic()
                self._pauses[name] = max(self._pauses[name], now - self._latest[name])
                self._latest[name] = now

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.look()
            assert self.ended or all(client.is_alive() for client in self.clients), (
                "a client has ended: see its traceback"
            )
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s for {what} (seed {self.seed}); {self.log()}")
            time.sleep(0.02)

    def wait_ready(self) -> None:
        """Return when the pipeline that was started last says that it is ready."""
        log = self.folder / "pipeline.log"
        self.starts += 1
        self.wait_until(lambda: log.read_text().count("polku: ready") >= self.starts, 90, "the pipeline to be ready")

    def log(self) -> str:
        """Return the end of what the pipeline has said."""
        return "the pipeline said:\n" + (self.folder / "pipeline.log").read_text()[-5000:]

    def come_to_rest(self) -> None:
        """Stop the load, then the pipeline by SIGTERM, which delivers what it holds."""
        for client in self.clients:
            client.finish(120)
        assert self.pipeline is not None
        self.pipeline.send_signal(signal.SIGTERM)
        code = self.pipeline.wait(60)
        assert code == 0, f"exit status {code} (seed {self.seed}); {self.log()}"
        self.look()

    def start_sink(self) -> None:
        arguments = [sys.executable, "-m", "tests.chaos.sink", str(self.folder), str(self.sink_port)]
        self.sink = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        assert self.sink.stdout is not None
        with self.sink.stdout as said:
            assert said.readline().strip() == b"ready"

    def start_pipeline(self) -> None:
        settings = {
            "CHAOS_MARK": self.mark,
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_BUFFER": self.buffer,
            "CHAOS_SINK": f"127.0.0.1:{self.sink_port}",
            "PYTHONPATH": os.getcwd(),
            "RAY_ADDRESS": "local",  # not any other Ray that happens to run here
            "RAY_AUTH_MODE": "disabled",
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_worker_niceness": "0",
            "POLKU_LOG_LEVEL": "info",
            **self.environment,
        }
        address = f"127.0.0.1:{self.port}"
        polku = ON_BARE_RAY if self.runtime == "ray" else POLKU
        command = [*polku, "run", "tests/chaos/pipeline.py", "--runtime", self.runtime, "--grpc-addr", address]
        command += ["--admin-addr", f"unix:{self.folder}/admin"]
        with (self.folder / "pipeline.log").open("ab") as log:
            self.pipeline = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)

    def pids(self, title: str) -> list[int]:
        """Return the processes of this run whose command line has `title` in it: they carry its mark."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                ours = f"CHAOS_MARK={self.mark}".encode() in (entry / "environ").read_bytes()
                if ours and title.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def end(self) -> None:
        self.wake()
        for pid in self.pids(""):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.sink is not None:
            self.sink.kill()
            self.sink.wait(30)
