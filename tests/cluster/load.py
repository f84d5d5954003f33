"""The load, on a host of its own: `python -m tests.cluster.load FOLDER SINK-ADDRESS CLIENTS HOST-ADDRESS…`.

Clients, the destination and the oracle are in this process, which answers each line of its input with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import grpc.aio

from polku.testing import Oracle
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import Ack, IngestBatch
from tests.chaos.files import Reader
from tests.cluster.client import HostClient, RoamingClient

GATEWAY_PORT = 50051
_RATE = 200.0  # events a second of each client
_ROAMING = 2


class Pause:
    """The longest time between two arrivals."""

    def __init__(self) -> None:
        self._latest, self._longest = time.monotonic(), 0.0

    def end(self) -> None:
        """Take note of an arrival."""
        now = time.monotonic()
        self._longest, self._latest = max(self._longest, now - self._latest), now

    @property
    def longest(self) -> float:
        """The longest one until now, which may be one, in seconds."""
        return max(self._longest, time.monotonic() - self._latest)


class Sink(gateway_pb2_grpc.GatewayServicer):
    """Tell the oracle what arrives, and acknowledge it."""

    def __init__(self, load: Load) -> None:
        self._load = load

    async def StreamEvents(self, requests: AsyncIterator[IngestBatch], context: Any) -> AsyncIterator[Ack]:
        async for batch in requests:
            with self._load.lock:
                self._load.oracle.delivered("sink", batch.events.events)
                self._load.arrived({event.source for event in batch.events.events})
            yield Ack(event_ids=[event.id for event in batch.events.events])


class Load:
    """Clients on one side of the pipeline, and what it delivers to on the other."""

    def __init__(self, folder: Path, clients: int, addresses: Sequence[str]) -> None:
        self.oracle = Oracle(["file", "sink"], ordered=["file"])
        self.lock = threading.Lock()
        gateways = [f"{address}:{GATEWAY_PORT}" for address in addresses]
        self.clients: dict[str, HostClient] = {}
        for number, gateway in enumerate(gateways, 1):
            for each in range(1, clients + 1):
                name, source = (
                    (f"host-{number}", f"h{number}") if each == 1 else (f"host-{number}.{each}", f"h{number}.{each}")
                )
                self.clients[name] = HostClient(gateway, self.oracle, self.lock, source, _RATE / clients)
        for number in range(_ROAMING):
            turned = gateways[number:] + gateways[:number]
            self.clients[f"roaming-{number + 1}"] = RoamingClient(turned, self.oracle, self.lock, f"r{number}", _RATE)
        self._readers = [Reader(folder / f"host-{number}", "file") for number in range(1, len(addresses) + 1)]
        self._pauses = {"": Pause()}  # of deliveries: all, and those of each source

    def arrived(self, sources: Collection[str]) -> None:
        """Take note that something arrived at the destination; the lock is held."""
        for source in ("", *sources):
            self._pauses.setdefault(source, Pause()).end()

    def start(self) -> dict[str, Any]:
        """Begin to send."""
        for client in self.clients.values():
            client.start()
        return {}

    def begin(self) -> dict[str, Any]:
        """Send again after a rest, and count pauses and errors from now on."""
        with self.lock:
            self._pauses = {source: Pause() for source in self._pauses}
        for client in self.clients.values():
            client.begin()
        return {}

    def rest(self) -> dict[str, Any]:
        """Send nothing new."""
        for client in self.clients.values():
            client.rests.set()
        return {}

    def look(self) -> dict[str, Any]:
        """Return what clients and destination have seen since `begin`, and the verdict over all."""
        for reader in self._readers:
            for events in reader.read():
                with self.lock:
                    self.oracle.delivered("file", events)
        now = time.monotonic()
        with self.lock:
            verdict = self.oracle.verdict()
            pauses = {source: pause.longest for source, pause in self._pauses.items()}
        return {
            "verdict": verdict._asdict(),
            "delivery pause": pauses.pop(""),
            "delivery pauses": pauses,
            "clients": {name: self._seen(client, now) for name, client in self.clients.items()},
        }

    def _seen(self, client: HostClient, now: float) -> dict[str, Any]:
        errors: Counter[str] = client.errors.copy()
        pause = max(client.longest, 0.0 if client.rests.is_set() else now - client.latest)
        return {
            "source": client.source,
            "acknowledged": client.acknowledged,
            "done": client.is_done,
            "pause": pause,
            "errors": dict(errors),
            "refused": client.refused,
            "silent": now - client.latest,
        }


async def _serve(sink: Sink, address: str, ready: threading.Event) -> None:
    server = grpc.aio.server()
    gateway_pb2_grpc.add_GatewayServicer_to_server(sink, server)
    assert server.add_insecure_port(address)
    await server.start()
    ready.set()
    await server.wait_for_termination()


def main(folder: Path, sink_address: str, clients: int, addresses: Sequence[str]) -> None:
    load, ready = Load(folder, clients, addresses), threading.Event()
    sink = Sink(load)  # type: ignore[abstract]  # the methods that it lacks answer "unimplemented"
    threading.Thread(target=asyncio.run, args=(_serve(sink, sink_address, ready),), daemon=True).start()
    assert ready.wait(30)
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(getattr(load, line.strip())()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
