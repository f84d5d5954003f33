"""What many connections cost: thousands that are idle, and ones that come and go.

    python -m tests.bench.connections --idle 10000 --churn 600

The gateway runs in a process of its own, inline; where its descriptors are not enough for that many connections to one
port (a port may have three eighths of them), it has several ports, and they are divided among these. First connections
are opened from several addresses of loopback, each of which has made one call, and stay; then, for `--churn` seconds,
each connection is opened, makes one call, and is closed in one of four ways: in order, by a reset, half-way through a
call, and while its answer is on the way. Memory is the process's private memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from polku import Hub
from polku.bench.child import Child
from polku.bench.machine import describe, machine
from polku.bench.processes import usage
from polku.gateway.places import connections_within
from polku.http2.limits import ConnectionLimits
from polku.rpc.client import GrpcClientConnection, request_head
from polku.rpc.messages import write_prefix
from polku.rpc.status import Status, StatusCode
from polku.v1.gateway_pb2 import IngestEvent

_EACH = 900  # connections from one address: the limit is 1,000
_SETTLE_SECONDS = 2.0
_METHOD = "/polku.v1.Gateway/SendEvent"
_WAYS = 4
_TOGETHER = 40  # connections that come and go side by side
_DESCRIPTORS = 65_536


class _Call:
    """A call that is waited for."""

    def __init__(self) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def answered(self, message: bytes) -> None:
        """The status follows."""

    def ended(self, status: Status) -> None:
        if not self.done.done():
            self.done.set_result(status.code)

    def leaving(self, reason: str) -> None:
        """The call comes to its end."""


def _message(number: int) -> bytes:
    request = IngestEvent(source="bench", cluster="prod")
    request.event.id, request.event.event_type = f"e-{number}", "t"
    return request.SerializeToString()


class _Clients:
    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._head = request_head(f"127.0.0.1:{ports[0]}", _METHOD, tls=False)
        self._sent = 0
        self.failed = 0

    async def open(self, number: int) -> GrpcClientConnection:
        """Open a connection from one of the addresses of loopback."""
        local = (f"127.0.{1 + number // _EACH // 250}.{1 + number // _EACH % 250}", 0)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: GrpcClientConnection(ConnectionLimits()), "127.0.0.1", self._port_of(number), local_addr=local
        )
        return connection

    def _port_of(self, number: int) -> int:
        return self._ports[number % len(self._ports)]

    async def call(self, connection: GrpcClientConnection) -> None:
        """Make one call."""
        self._sent += 1
        call = _Call()
        connection.ask(self._head, _message(self._sent), call)
        if await asyncio.wait_for(call.done, 60) != StatusCode.OK:
            self.failed += 1

    async def come_and_go(self, number: int) -> None:
        """Open a connection, use it, and close it in one of the ways."""
        connection = await self.open(number)
        transport: Any = connection._outbox.transport
        way = number % _WAYS
        if way < 2:
            await self.call(connection)
        elif way == 2:  # half of a message
            stream = connection.begin(self._head, _Call())
            connection.send(stream, write_prefix(0, 1_000) + b"half")
        else:  # a call whose answer nobody reads
            self._sent += 1
            connection.ask(self._head, _message(self._sent), _Call())
        if way == 1:
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await asyncio.sleep(0)
        connection.refuse_new()
        connection.abort()
        await connection.gone


async def _measure(pid: int, ports: Sequence[int], idle: int, churn: float, rate: float) -> None:
    clients = _Clients(ports)
    before = _memory(pid)
    connections = []
    for start in range(0, idle, 100):
        some = await asyncio.gather(*(clients.open(number) for number in range(start, min(start + 100, idle))))
        await asyncio.gather(*map(clients.call, some))
        connections += some
    await asyncio.sleep(_SETTLE_SECONDS)
    after = _memory(pid)
    if idle:
        each = (after - before) / idle
        print(f"{idle:,} idle connections: {before / 1e6:.1f} → {after / 1e6:.1f} MB, {each / 1e3:.1f} kB each")
        began = time.perf_counter()
        await asyncio.gather(*map(clients.call, connections[:1_000]))
        print(f"1,000 of them call at once: {(time.perf_counter() - began) * 1e3:.0f} ms until all have their answers")
    for connection in connections:
        connection.refuse_new()
        connection.abort()
    await asyncio.gather(*(connection.gone for connection in connections))
    await _come_and_go(clients, pid, churn, rate)
    print(f"calls that failed: {clients.failed}")


async def _come_and_go(clients: _Clients, pid: int, seconds: float, rate: float) -> None:
    began = time.monotonic()
    ended, number, looks = began + seconds, 0, [(0, _memory(pid))]
    next_look = began + seconds / 10
    while time.monotonic() < ended:
        await asyncio.gather(*(clients.come_and_go(number + place) for place in range(_TOGETHER)))
        number += _TOGETHER
        if rate:
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        if time.monotonic() >= next_look:
            next_look += seconds / 10
            looks.append((number, _memory(pid)))
    for count, memory in looks if seconds else ():
        print(f"after {count:,} connections that came and went: {memory / 1e6:.1f} MB")


def _memory(pid: int) -> int:
    found = usage(pid)
    assert found is not None
    return found.memory_bytes


def _raise_descriptors() -> None:
    """Let this process and the gateway's have as many as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, max(hard, _DESCRIPTORS)))
    except (ValueError, OSError):  # only root may have more than the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _forget(batch: object) -> None:
    """Do nothing."""


def _serve(count: int) -> None:
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            hub = Hub(runtime="inline").emitter(_forget)
            pipeline = stack.enter_context(hub.start(grpc_addr="127.0.0.1:0", admin_addr="off"))
            ports.append(int(str(pipeline.address).rpartition(":")[2]))
        print(json.dumps({"ports": ports, "pid": os.getpid()}), flush=True)
        sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.connections", description=__doc__)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--churn", type=float, default=600.0, help="seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="connections that come each second, at most")
    options = parser.parse_args()
    _raise_descriptors()
    each = connections_within(max(1, options.idle))
    ports = max(1, math.ceil(options.idle / each))
    print(f"{ports} ports, for up to {each:,} connections each" if ports > 1 else "one port", flush=True)
    with Child("gateway", "tests.bench.connections", {"ports": ports}) as gateway:
        told = gateway.read()
        asyncio.run(_measure(told["pid"], told["ports"], options.idle, options.churn, options.rate))
    print(f"\n{describe(machine())}")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        _serve(json.loads(sys.argv[1])["ports"])
    else:
        main()
