"""A gateway in a process of its own, what it costs, and an ordinary client beside what is done to it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import grpc

from polku import Event
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import IngestEvent
from tests.support.pace import pace

MB = 1_000_000
HUB = """
from polku import Deduplicator, Hub, Throttle

def fails(data):
    raise ValueError("this ingestor reads nothing")

def store(batch):
    with open({stored!r}, "a") as file:
        file.writelines(event.id + "\\n" for event in batch if event.source == "ordinary")

hub = Hub(runtime="{runtime}").ingestor(fails, source="fails").default_ingestor(fails).emitter(store)
hub.middleware(Throttle(1e9)).middleware(Deduplicator())
"""
WATCHING = """
import asyncio, os, time
run = asyncio.events.Handle._run

def watched(self):
    began = time.thread_time()
    run(self)
    spent = time.thread_time() - began
    if spent > 0.001:
        with open({turns!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{spent:.4f}}\\n")

asyncio.events.Handle._run = watched
"""


class Gateway:
    """Run `polku run` with both ports on loopback; `descriptors` is the limit of the process.

    `watched`: on asyncio's own loop, with the processor time of its long turns in `turns`; so in all processes that it
    starts.
    """

    def __init__(
        self,
        folder: Path,
        door: str,
        *,
        descriptors: int | None = None,
        watched: bool = False,
        hub: str = HUB,
        arguments: Sequence[str] = (),
        runtime: str = "inline",
    ) -> None:
        self.door = door
        self.stored = folder / "stored"
        self.stored.touch()
        self.log = folder / "log"
        self.turns = folder / "turns"
        self.turns.touch()
        (folder / "hub.py").write_text(hub.format(stored=str(self.stored), runtime=runtime))
        ports = ["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", *arguments]
        command = [sys.executable, "-m", "polku", "run", str(folder / "hub.py"), "--runtime", runtime, *ports]
        if descriptors is not None:
            command = ["bash", "-c", f'ulimit -n {descriptors} && exec "$@"', "bash", *command]
        with self.log.open("wb") as log:
            environment = {**os.environ, "POLKU_DOOR": door}
            if watched:
                (folder / "sitecustomize.py").write_text(WATCHING.format(turns=str(self.turns)))
                paths = os.pathsep.join([str(folder), *filter(None, [environment.get("PYTHONPATH")])])
                environment |= {"POLKU_LOOP": "asyncio", "RAY_USE_UVLOOP": "0", "PYTHONPATH": paths}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.grpc, self.http = self._wait()
        self._pid = self._process.pid if runtime == "inline" else listener(self.grpc)
        assert self.longest_turn() > 0 or not watched, "nobody writes how long turns are"

    def _wait(self) -> tuple[str, str]:
        deadline = time.monotonic() + 60
        while "polku: ready on " not in (text := self.log.read_text()):
            assert time.monotonic() < deadline, text
            assert self._process.poll() is None, text
            time.sleep(0.02)
        words = text.partition("polku: ready on ")[2].split()
        return words[1], words[4]

    def longest_turn(self) -> float:
        """Return the processor seconds of the longest turn in the process that has the ports, since `forget_turns`."""
        rows = map(str.split, self.turns.read_text().splitlines())
        return max((float(row[1]) for row in rows if row[0] == str(self._pid)), default=0.0)

    def forget_turns(self) -> None:
        """Forget the turns measured up to now."""
        self.turns.write_text("")

    def cpu(self) -> float:
        """Return the CPU seconds that it has used."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, kind: str = "VmRSS") -> int:
        """Return bytes of memory; `VmHWM` is the peak since `forget_peak`."""
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith(kind):
                return int(line.split()[1]) * 1024
        raise AssertionError("the gateway is dead")

    def forget_peak(self) -> None:
        """Forget the peak measured up to now."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        """Drain it and wait for its end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            assert self._process.wait(30) == 0, self.log.read_text()[-2000:]
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()


def listener(address: str) -> int:
    """Return the process that listens at an address of the loopback interface."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))  # grpcio's is IPv6
    rows = [line.split() for table in tables for line in table]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == "0A"}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in sockets:
                return int(link.parts[2])
    raise AssertionError(f"nobody listens at {address}")


class Ordinary:
    """A client that sends an event every few milliseconds, and again where it is asked to."""

    def __init__(self, gateway: Gateway, token: str = "") -> None:
        self._gateway = gateway
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._on = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged: list[str] = []
        self.seconds: list[float] = []
        self.refused: list[str] = []

    def __enter__(self) -> Ordinary:
        self._thread.start()
        self.wait_for(3)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on = False
        self._thread.join(60)

    def wait_for(self, count: int) -> None:
        """Wait for so many more acknowledgements."""
        wanted, deadline = len(self.acknowledged) + count, time.monotonic() + 30
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, self.refused
            time.sleep(0.005)

    def _run(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._gateway.grpc, options) as channel:
            stub = gateway_pb2_grpc.GatewayStub(channel)
            number = 0
            while self._on:
                event_id, number = f"ordinary-{id(self)}-{number}", number + 1
                request = IngestEvent(source="ordinary", event=Event(id=event_id, event_type="t"))
                began = time.monotonic()
                while self._on:
                    try:
                        if event_id in stub.SendEvent(request, timeout=30, metadata=self._metadata).event_ids:
                            self.acknowledged.append(event_id)
                        break
                    except grpc.RpcError as error:
                        self.refused.append(f"{error.code().name}: {error.details()}")
                        time.sleep(0.02)
                self.seconds.append(time.monotonic() - began)
                time.sleep(0.005)


class Cost(NamedTuple):
    """What an attack may cost: bytes over what the gateway had before, and seconds of its CPU."""

    memory: int
    cpu: float


@contextlib.contextmanager
def costs(gateway: Gateway, most: Cost) -> Iterator[None]:
    """Check what is done within costs no more, and that an ordinary client is served all the while."""
    with Ordinary(gateway) as ordinary:
        gateway.forget_peak()
        base, cpu = gateway.memory(), gateway.cpu()
        yield
        ordinary.wait_for(3)
        grown, used = gateway.memory("VmHWM") - base, gateway.cpu() - cpu
    assert grown <= most.memory, f"{grown / MB:.0f} MB more, {most.memory / MB:.0f} are allowed"
    allowed = most.cpu * pace()
    assert used <= allowed, f"{used:.2f} s of CPU, {allowed:.2f} are allowed"
    assert not ordinary.refused
    slowest = sorted(ordinary.seconds)[int(0.99 * len(ordinary.seconds)) - 1]
    assert slowest < allowed + 10.0  # others use this machine too
    _EXPECTED.setdefault(gateway, []).extend(ordinary.acknowledged)


_EXPECTED: dict[Gateway, list[str]] = {}


def check_stored(gateway: Gateway) -> None:
    """Check, once the gateway has ended, that what ordinary clients had acknowledged is stored, once each."""
    stored = gateway.stored.read_text().splitlines()
    assert sorted(stored) == sorted(set(stored))
    assert set(_EXPECTED.pop(gateway, [])) <= set(stored)


def raise_own_descriptors() -> None:
    """Let this process have the sockets that attacks need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
