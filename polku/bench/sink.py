"""The process that receives: a gateway that acknowledges everything at once, and counts it by id.

It decodes nothing: an event's id stands first in its bytes, in the very form in which an Ack lists it, so the joined
heads of the events are the Ack (0.15 µs an event with the counting, where decoding and listing alone takes 0.27).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from polku.batch.frames import read_envelope, split_frames
from polku.bench.ledger import Ledger
from polku.bench.workload import HEAD_BYTES, ID_BYTES, PREFIX, Workload, sent_at
from polku.event.v1.event_pb2 import Event
from polku.histogram import Histogram
from polku.v1.gateway_pb2 import Ack

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]


class Received:
    """Keep what came from one emitter; `whole` looks into the first and last event of each message."""

    def __init__(self, workload: Workload, lanes: int, epoch_ns: int, whole: bool) -> None:
        self._workload = workload
        self._payload = workload.payload if whole else None
        self._epoch_ns = epoch_ns
        self.ledger = Ledger(workload.batch, lanes)
        self.end_to_end = Histogram()
        self.events = self.messages = self.foreign = self.corrupted = 0
        self.first = self.last = 0.0

    def take(self, payload: bytes) -> bytes:
        """Count an `EventPayload` and return the serialised Ack of its events."""
        now = time.monotonic()
        self.first, self.last = self.first or now, now
        frames = split_frames(payload)
        heads = b"".join([frame[:HEAD_BYTES] for frame in frames])
        answer = heads
        if heads.count(PREFIX) != len(frames) or len(heads) != len(frames) * HEAD_BYTES:
            frames, answer = self._sort(frames)
            heads = b"".join([frame[:HEAD_BYTES] for frame in frames])
        self.messages += 1
        self.events += len(frames)
        self._measure(frames, heads, now)
        if self._payload is not None and frames:
            self.corrupted += sum(self._is_corrupted(frame) for frame in (frames[0], frames[-1]))
        return answer

    def _measure(self, frames: list[bytes], heads: bytes, now: float) -> None:
        for place, count, new in self.ledger.take(heads):
            sent = sent_at(frames[place])
            if new and sent is not None:
                self.end_to_end.record(now - (sent - self._epoch_ns) / 1e9, count)

    def result(self) -> dict[str, Any]:
        """Return everything that was seen."""
        return {
            "events": self.events,
            "messages": self.messages,
            "foreign": self.foreign,
            "corrupted": self.corrupted,
            "first": self.first,
            "last": self.last,
            "end_to_end": self.end_to_end.to_json(),
            "ledger": self.ledger.to_json(),
        }

    def _sort(self, frames: list[bytes]) -> tuple[list[bytes], bytes]:
        """Return the events that are of the workload, with their ids in front, and the Ack of all."""
        ours, ids = [], []
        for frame in frames:
            event = Event.FromString(frame)
            ids.append(event.id)
            if len(event.id) == ID_BYTES and PREFIX.endswith(event.id[:6].encode()):
                ours.append(event.SerializeToString())
            else:
                self.foreign += 1
        return ours, Ack(event_ids=ids).SerializeToString()

    def _is_corrupted(self, frame: bytes) -> bool:
        event = Event.FromString(frame)
        expected = (f"{self._workload.source}-agent", self._workload.event_type, self._payload, 2)
        return (event.source, event.event_type, event.payload, event.severity) != expected


class Sink:
    """Serve StreamEvents; what comes is kept by the `source` of its batches, which tells emitters apart."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._workload = Workload(**order["workload"])
        self._order = order
        self.received: dict[str, Received] = {}

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Answer each batch at once."""
        async for data in requests:
            envelope = read_envelope(data)
            received = self.received.get(envelope.source)
            if received is None:
                order = self._order
                arguments = (self._workload, order["connections"], order["epoch_ns"], order["check"])
                received = self.received[envelope.source] = Received(*arguments)
            await context.write(received.take(envelope.content))

    def counts(self) -> dict[str, int]:
        """Return how many events have come from each emitter."""
        return {name: received.events for name, received in self.received.items()}


async def _main(order: dict[str, Any]) -> None:
    sink = Sink(order)
    server = grpc.aio.server(options=_UNLIMITED)
    methods = {"StreamEvents": grpc.stream_stream_rpc_method_handler(sink.stream)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("polku.v1.Gateway", methods),))
    _tell({"port": server.add_insecure_port("127.0.0.1:0")})
    await server.start()
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line == "counts\n":
            _tell(sink.counts())
        else:
            _tell({name: received.result() for name, received in sink.received.items()})
    await server.stop(0)


def _tell(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
