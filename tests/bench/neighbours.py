"""What an ordinary client notices of others that are refused, send at the limits, or attack: p50 and p99 of its calls.

    python -m tests.bench.neighbours --seconds 10 --door native --door grpcio

The gateway is `polku run` with a file of principals. The ordinary client makes a call each 5 ms; each neighbour is one
client that goes on as fast as it is answered. `refused` are calls of the ordinary client that it had to make again.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from polku import Event
from polku.http2 import frames as f
from polku.security.token_file import file_lines
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.attacks.lab import HUB, Gateway, Ordinary

RIGHTS: Mapping[str, Mapping[str, object]] = {
    "ordinary": {"sources": ["ordinary"]},
    "other": {"sources": ["other"]},
    "slow": {"events_per_second": 1.0},
}
Neighbour = Callable[[Gateway, Callable[[], bool]], int]
"""Go on until told to end; return how often it was answered."""


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def calling(request: IngestEvent, token: str, count: int = 16) -> Neighbour:
    """Make calls, that many at once."""

    def run(gateway: Gateway, goes_on: Callable[[], bool]) -> int:
        answered, message = 0, request.SerializeToString()
        with grpc.insecure_channel(gateway.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call: Any = channel.unary_unary("/polku.v1.Gateway/SendEvent", None, None)
            while goes_on():
                calls = [call.future(message, metadata=metadata(token), timeout=30) for _ in range(count)]
                for one in calls:
                    one.exception()
                    answered += 1
        return answered

    return run


def streaming(batch: IngestBatch, token: str, *, packs: bool = False) -> Neighbour:
    """Send batches over one stream, four at a time."""

    def run(gateway: Gateway, goes_on: Callable[[], bool]) -> int:
        room, message, answered = threading.Semaphore(4), batch.SerializeToString(), 0

        def messages() -> Iterator[bytes]:
            while goes_on():
                if room.acquire(timeout=0.1):
                    yield message

        packing = grpc.Compression.Gzip if packs else grpc.Compression.NoCompression
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(gateway.grpc, options, compression=packing) as channel:
            stream: Any = channel.stream_stream("/polku.v1.Gateway/StreamEvents", None, None)
            for _ in stream(messages(), metadata=metadata(token)):
                answered += 1
                room.release()
        return answered

    return run


def posting(body: bytes, token: str) -> Neighbour:
    """Post a compressed body again and again."""

    def run(gateway: Gateway, goes_on: Callable[[], bool]) -> int:
        answered = 0
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip", **dict(metadata(token))}
        while goes_on():
            client = http.client.HTTPConnection(gateway.http, timeout=30)
            client.request("POST", "/v1/events", body, headers)
            client.getresponse().read()
            client.close()
            answered += 1
        return answered

    return run


def connecting(gateway: Gateway, goes_on: Callable[[], bool]) -> int:
    """Open connections that say a greeting and nothing more, 500 at a time."""
    host, _, port = gateway.grpc.rpartition(":")
    opened = 0
    while goes_on():
        with contextlib.ExitStack() as stack:
            for _ in range(500):
                client = stack.enter_context(socket.create_connection((host, int(port)), 10, ("127.0.0.2", 0)))
                with contextlib.suppress(OSError):
                    client.sendall(f.PREFACE + f.settings({}))
                opened += 1
    return opened


def nothing(gateway: Gateway, goes_on: Callable[[], bool]) -> int:
    while goes_on():
        time.sleep(0.05)
    return 0


LARGE = EventPayload(
    events=[Event(id=f"e{n}", source="other", event_type="t", payload=bytes(340)) for n in range(10_000)]
)
ONE = Event(source="other", event_type="t")
NEIGHBOURS: dict[str, Neighbour] = {
    "nobody": nothing,
    "no token": calling(IngestEvent(event=ONE), ""),
    "another source": calling(IngestEvent(event=ONE), "ordinary"),
    "`route_to` without the right": calling(IngestEvent(event=Event(source="other", route_to=["a"])), "other"),
    "over its rate": calling(IngestEvent(event=Event(source="any")), "slow"),
    "calls that are taken": calling(IngestEvent(event=ONE), "other"),
    "batches of 10,000 events": streaming(IngestBatch(events=LARGE), "other"),
    "the same, compressed": streaming(IngestBatch(events=LARGE), "other", packs=True),
    "4 MiB of JSON, compressed": posting(gzip.compress(b"[" + b'{"id":"a"},' * 9_000 + b"{}]"), "other"),
    "a bomb": posting(gzip.compress(bytes(100_000_000)), "other"),
    "500 silent connections": connecting,
}


def beside(gateway: Gateway, neighbour: Neighbour, seconds: float) -> tuple[Ordinary, int]:
    """Have a neighbour go on for some seconds next to an ordinary client."""
    ended = time.monotonic() + seconds
    with Ordinary(gateway, "ordinary") as ordinary:
        answered = neighbour(gateway, lambda: time.monotonic() < ended)
    return ordinary, answered


def percentile(seconds: list[float], share: float) -> float:
    return 1e3 * sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--door", action="append", choices=["native", "grpcio"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", action="append", choices=list(NEIGHBOURS))
    options = parser.parse_args()
    print("| server | a neighbour that sends | its answers/s | p50, p99 of an ordinary client | refused | not stored |")
    print("|---|---|---|---|---|---|")
    for door in options.door or ["native", "grpcio"]:
        for name in options.only or NEIGHBOURS:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                tokens = folder / "tokens.toml"
                tokens.write_text("".join(file_lines(who, who, rights, None) for who, rights in RIGHTS.items()))
                gateway = Gateway(folder, door, hub=HUB, arguments=["--tokens", str(tokens)])
                try:
                    ordinary, answered = beside(gateway, NEIGHBOURS[name], options.seconds)
                finally:
                    gateway.stop()
                lost = set(ordinary.acknowledged) - set(gateway.stored.read_text().splitlines())
            times = f"{percentile(ordinary.seconds, 0.5):.1f}, {percentile(ordinary.seconds, 0.99):.1f} ms"
            rate = answered / options.seconds
            print(f"| {door} | {name} | {rate:,.0f} | {times} | {len(ordinary.refused)} | {len(lost)} |", flush=True)


if __name__ == "__main__":
    main()
