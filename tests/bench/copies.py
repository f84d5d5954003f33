"""How often each byte of a payload is copied on its way through a pipeline, in each of its processes.

    python -m tests.bench.copies
    python -m tests.bench.copies --events 1000 --payload 130 --least 64

What the system copies between a process and a socket counts as read and written. Counted is every copy of `--least`
bytes or more, whoever makes it: a library that is loaded before libc stands before its functions (`copies.c`, which
needs a C compiler). Events come in messages of `--events`, whose DATA frames have 16 kB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from polku import BufferStrategy, Filter, GrpcEmitter, Hub, Transform
from polku.bench.child import Child
from polku.bench.host import parts_by_process
from polku.event.v1.event_pb2 import Event
from polku.runner import Runner
from polku.v1.gateway_pb2 import EventPayload, IngestBatch
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.bench.pipelines import is_about_users, mark

COMPILER = shutil.which("cc") or shutil.which("gcc")
SHAPES: dict[str, dict[str, Any]] = {
    "inline": {"runtime": "inline"},
    "inline, no middleware": {"runtime": "inline", "plain": True},
    "inline, durable": {"runtime": "inline", "durable": True},
    "Ray, four actors": {"runtime": "ray"},
}
_COUNTERS = struct.Struct("=4Q")
_MESSAGES = 100
_SECONDS = 120.0
_MODULE = "tests.bench.copies"


class Passes(NamedTuple):
    """How often each byte of a payload is copied, read, written to a socket or pipe, and written to a file."""

    copied: float
    read: float
    written: float
    stored: float


def count(shape: Mapping[str, Any], events: int, payload: int, least: int) -> dict[str, Passes]:
    """Send some messages through a pipeline, and return the passes of a byte in each of its processes."""
    with tempfile.TemporaryDirectory(prefix="polku-copies-") as folder, Child("sink", _MODULE, {"sink": True}) as sink:
        counted = Path(folder, "counted")
        counted.mkdir()
        journal = f"{folder}/journal.db" if shape.get("durable") else ""
        order = {**shape, "to": sink.read()["address"], "journal": journal}
        library = _library(folder)
        with Child(
            "gateway", _MODULE, order, LD_PRELOAD=library, POLKU_COPIES=str(counted), POLKU_COPIES_LEAST=str(least)
        ) as gateway:
            address = gateway.read()["address"]
            found = []
            for number in (1, 2):  # after the first messages connections are there, and windows are wide
                _send(address, events, payload)
                parts = _delivered(gateway, number * _MESSAGES * events)
                found.append({name: _read(counted / pid) for pid, name in parts.items()})
    before, after = found
    size = _MESSAGES * events * payload
    return {n: Passes(*((b - a) / size for a, b in zip(before[n], after[n], strict=True))) for n in after}


def _library(folder: str) -> str:
    path, source = f"{folder}/copies.so", str(Path(__file__).with_name("copies.c"))
    options = ["-O2", "-fno-builtin", "-shared", "-fPIC"]
    subprocess.run([str(COMPILER), *options, "-o", path, source, "-ldl"], check=True)
    return path


def _read(path: Path) -> tuple[int, ...]:
    return _COUNTERS.unpack(path.read_bytes())


def _send(address: str, events: int, payload: int) -> None:
    def messages() -> Iterator[IngestBatch]:
        for message in range(_MESSAGES):
            made = [_event(f"{time.monotonic_ns()}-{message}-{number}", payload) for number in range(events)]
            yield IngestBatch(source="bench", cluster="prod", events=EventPayload(events=made))

    with grpc.insecure_channel(address) as channel:
        acks = list(GatewayStub(channel).StreamEvents(messages()))
    assert not any(ack.errors for ack in acks), acks[0].errors[0]


def _event(event_id: str, payload: int) -> Event:
    return Event(
        id=event_id, timestamp_unix_ns=time.time_ns(), source="bench", event_type="user.login", payload=b"x" * payload
    )


def _delivered(gateway: Child, number: int) -> dict[str, str]:
    """Wait until that many events are delivered; return the parts of the pipeline by their processes."""
    deadline = time.monotonic() + _SECONDS
    while True:
        answer = gateway.ask("how many")
        if answer["delivered"] >= number:
            parts: dict[str, str] = answer["parts"]
            return parts
        if time.monotonic() > deadline:
            raise TimeoutError(f"{answer['delivered']} of {number} events are delivered after {_SECONDS:.0f} s")
        time.sleep(0.05)


def _hub(order: Mapping[str, Any]) -> Hub:
    if order.get("sink"):
        return Hub(name="sink", runtime="inline").emitter(_forget)
    hub = Hub(name="bench", runtime=order["runtime"])
    if not order.get("plain"):
        hub.middleware(Filter(is_about_users)).middleware(Transform(mark))
    if order["journal"]:
        hub.buffer_strategy(BufferStrategy.durable(order["journal"]))
    return hub.emitter(GrpcEmitter(order["to"]))


def _forget(batch: object) -> None:
    """Take a batch in."""


def _serve(order: Mapping[str, Any]) -> None:
    """Be the gateway or the sink, until standard input ends."""
    plan = _hub(order).plan()
    runner = Runner(plan, order.get("runtime", "inline"))
    with runner.start(grpc_addr="127.0.0.1:0") as pipeline:
        print(json.dumps({"address": str(pipeline.address)}), flush=True)
        for _ in sys.stdin:
            lanes = pipeline.statistics().lanes
            buffers = [lane.buffer for lane in lanes if lane.buffer is not None]
            delivered = sum(outlet.confirmed for buffer in buffers for outlet in buffer.outlets.values())
            print(json.dumps({"delivered": delivered, "parts": parts_by_process(runner)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.copies", description=__doc__)
    parser.add_argument("--events", type=int, default=10, help="in a message")
    parser.add_argument("--payload", type=int, default=16_000, help="bytes")
    parser.add_argument("--least", type=int, default=1_024, help="bytes that a copy has if it counts")
    options = parser.parse_args()
    if COMPILER is None:
        parser.error("needs a C compiler, cc or gcc")
    print("| | process | copied | read | written | to disk |\n|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        for part, passes in count(shape, options.events, options.payload, options.least).items():
            print(f"| {name} | {part} | {' | '.join(f'{times:.2f}' for times in passes)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        _serve(json.loads(sys.argv[1]))
    else:
        main()
