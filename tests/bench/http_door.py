"""Events over HTTP, and what a bare server does that decodes the same JSON and keeps nothing.

    python -m tests.bench.http_door --rounds 5

Client and server are processes of their own. The bare server is an asyncio Protocol on uvloop that looks for the end of
the head and for `content-length`, decodes the body with msgspec and lists the ids; the pipeline checks, fills in,
buffers and hands on to a function that does nothing. Each connection sends its next request when the answer has come.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from polku import Hub
from polku.aio.loops import new_event_loop
from polku.bench.child import Child
from polku.bench.machine import describe, machine

_DECODER = msgspec.json.Decoder()
_HEAD_END = b"\r\n\r\n"


class Row(NamedTuple):
    """What is sent: `events` in a request, as a type of content."""

    name: str
    events: int
    media_type: str
    gzip: bool = False
    connections: int = 32

    def body(self) -> bytes:
        """Return the body of a request."""
        body = _bodies(self.media_type, self.events)
        return gzip.compress(body) if self.gzip else body

    def request(self) -> bytes:
        """Return the request."""
        body = self.body()
        head = "POST /v1/events?source=shop&cluster=prod HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n"
        head += f"Accept: */*\r\nContent-Type: {self.media_type}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Encoding: gzip\r\n" if self.gzip else ""
        return head.encode() + b"\r\n" + body


ROWS = [
    Row("JSON, one event", 1, "application/json"),
    Row("JSON, one event, one connection", 1, "application/json", connections=1),
    Row("CloudEvent, one event", 1, "application/cloudevents+json"),
    Row("JSON, 100 events", 100, "application/json"),
    Row("NDJSON, 100 events", 100, "application/x-ndjson"),
    Row("NDJSON, 1,000 events, gzip", 1_000, "application/x-ndjson", gzip=True),
    Row("CloudEvents, 100 events", 100, "application/cloudevents-batch+json"),
]


def _bodies(media_type: str, count: int) -> bytes:
    metadata = {"region": "eu-west-1", "tier": "gold", "trace": "4bf92f3577b34da6"}
    data = {"user": "u-1234", "ip": "10.1.2.3", "agent": "Mozilla/5.0 (X11; Linux x86_64)", "ok": True}
    if "cloudevents" in media_type:
        events: list[dict[str, Any]] = [
            {
                "specversion": "1.0",
                "id": f"e-{number}",
                "type": "user.login",
                "source": "/shop",
                **metadata,
                "data": data,
            }
            for number in range(count)
        ]
    else:
        payload = base64.b64encode(msgspec.json.encode(data)).decode()
        common = {"event_type": "user.login", "metadata": metadata, "payload": payload}
        events = [{"id": f"e-{number}", **common} for number in range(count)]
    if "ndjson" in media_type:
        return b"\n".join(map(msgspec.json.encode, events)) + b"\n"
    return msgspec.json.encode(events[0] if count == 1 else events)


class _Bare(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(_HEAD_END)) >= 0:
            head = self._received[:end].lower()
            start = head.index(b"content-length:") + 15
            size = int(head[start : head.find(b"\r\n", start) if b"\r\n" in head[start:] else None])
            if len(self._received) < end + 4 + size:
                return
            body = self._received[end + 4 : end + 4 + size]
            self._received = self._received[end + 4 + size :]
            self._answer(gzip.decompress(body) if b"content-encoding: gzip" in head else body, b"ndjson" in head)

    def _answer(self, body: bytes, is_lines: bool) -> None:
        decoded: Any = _DECODER.decode_lines(body) if is_lines else _DECODER.decode(body)
        events = decoded if isinstance(decoded, list) else [decoded]
        ack = msgspec.json.encode({"event_ids": [event["id"] for event in events], "errors": []})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ack)
        self._transport.write(head + ack)


def _forget(batch: object) -> None:
    """Do nothing."""


async def _serve_bare() -> None:
    server = await asyncio.get_running_loop().create_server(_Bare, "127.0.0.1", 0)
    _tell({"port": server.sockets[0].getsockname()[1]})
    await asyncio.to_thread(_answer_usage)


def _serve_pipeline() -> None:
    hub = Hub(runtime="inline").emitter(_forget)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        _tell({"port": int(str(pipeline.http_address).rpartition(":")[2])})
        _answer_usage()


def _answer_usage() -> None:
    for _ in sys.stdin:
        _tell({"cpu": time.process_time()})


class _Client(asyncio.Protocol):
    """Send a request whenever the answer to the one before has come."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self.send()

    def send(self) -> None:
        if self._load.left > 0:
            self._load.left -= 1
            self._sent = time.perf_counter()
            self._transport.write(self._load.request)
        else:
            self._transport.close()
            self._load.ended()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return
        head = self._received[:end].lower()
        start = head.index(b"content-length:") + 15
        stop = head.find(b"\r\n", start)
        if len(self._received) < end + 4 + int(head[start : stop if stop > 0 else None]):
            return
        if not head.startswith(b"http/1.1 200"):
            self._load.fail(RuntimeError(f"refused: {self._received[:500]!r}"))
        self._received = b""
        self._load.times.append(time.perf_counter() - self._sent)
        self.send()


class _Load:
    def __init__(self, request: bytes, count: int, connections: int) -> None:
        self.request, self.left, self._open = request, count, connections
        self.times: list[float] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(self) -> None:
        self._open -= 1
        if not self._open:
            self._done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    async def run(self, port: int, connections: int) -> float:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(lambda: _Client(self), "127.0.0.1", port)
        await self._done
        return time.perf_counter() - began


async def _send(order: dict[str, Any]) -> None:
    row = Row(*order["row"])
    load = _Load(row.request(), order["requests"], row.connections)
    seconds = await load.run(order["port"], row.connections)
    load.times.sort()
    _tell({"seconds": seconds, "p50": load.times[len(load.times) // 2], "p99": load.times[len(load.times) * 99 // 100]})


class Measured(NamedTuple):
    """Events a second, microseconds of CPU of the server for an event, milliseconds."""

    rate: float
    cpu: float
    p50: float
    p99: float


def measure(kind: str, row: Row, events: int) -> Measured:
    """Measure a server: `bare` or `pipeline`."""
    requests = max(row.connections * 4, events // row.events)
    with Child(kind, "tests.bench.http_door", {"do": kind}) as server:
        port = server.read()["port"]
        order = {"do": "send", "row": row, "port": port, "requests": 200}
        with Child("client", "tests.bench.http_door", order) as warm:
            warm.read()
        before = server.ask("usage")["cpu"]
        with Child(
            "client", "tests.bench.http_door", {"do": "send", "row": row, "port": port, "requests": requests}
        ) as load:
            told = load.read()
        used = server.ask("usage")["cpu"] - before
    sent = requests * row.events
    return Measured(sent / told["seconds"], used / sent * 1e6, told["p50"] * 1e3, told["p99"] * 1e3)


class Compared(NamedTuple):
    """Medians of one row, with the share of the bare server's rate, and the bare server's CPU."""

    ours: Measured
    ratio: float
    bare_cpu: float


def compare(rounds: int, share: float) -> dict[str, Compared]:
    """Measure all rows, and the bare server next to each, in turns."""
    found: defaultdict[tuple[str, str], list[Measured]] = defaultdict(list)
    for _ in range(rounds):
        for row in ROWS:
            events = int((20_000 if row.events == 1 else 200_000) * share)
            for kind in ("bare", "pipeline"):
                found[row.name, kind].append(measure(kind, row, events))
    return {row.name: _compared(found[row.name, "pipeline"], found[row.name, "bare"]) for row in ROWS}


def _compared(ours: Sequence[Measured], bare: Sequence[Measured]) -> Compared:
    ratio = statistics.median(one.rate / other.rate for one, other in zip(ours, bare, strict=True))
    medians = Measured(*(statistics.median(values) for values in zip(*ours, strict=True)))
    return Compared(medians, ratio, statistics.median(one.cpu for one in bare))


def _print(found: Mapping[str, Compared]) -> None:
    print("| | events/s | of a bare server | µs CPU/event, bare | p50, p99 ms |\n|---|---|---|---|---|")
    for name, (ours, ratio, bare) in found.items():
        print(
            f"| {name} | {ours.rate:,.0f} | {ratio:.2f} | {ours.cpu:.1f}, {bare:.1f} | {ours.p50:.2f}, {ours.p99:.2f} |"
        )
    print(f"\n{describe(machine())}")


def _tell(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.http_door", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of each row")
    options = parser.parse_args()
    _print(compare(options.rounds, options.share))


def _do(order: dict[str, Any]) -> None:
    if order["do"] == "pipeline":
        _serve_pipeline()
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve_bare() if order["do"] == "bare" else _send(order))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        _do(json.loads(sys.argv[1]))
    else:
        main()
