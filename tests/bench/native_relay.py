"""The bare relay on POLKU's own HTTP/2: the same little that `polku.bench.bare` does, without grpcio.

It shows what is left above the server: both read and write the same way, but this one checks, buffers and promises
nothing. Messages go through a filter and a transform and on to the sink; unary calls are only echoed as Acks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import Any

from polku.aio.loops import new_event_loop
from polku.bench.bare import answer_until_stopped
from polku.bench.trial import Subject
from polku.gateway.grpc.calls import BatchMethod, Method, StreamCall, StreamMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2.limits import ConnectionLimits
from polku.rpc.channel import Channel, Target
from polku.rpc.client import request_head
from polku.rpc.status import Status, StatusCode
from polku.v1.gateway_pb2 import Ack, IngestBatch, IngestEvent

NATIVE_RELAY = Subject(name="bare relay on our HTTP/2", module="tests.bench.native_relay")

_STREAM_EVENTS = "/polku.v1.Gateway/StreamEvents"
_SINK_BATCHES = 8  # in flight to the sink, as in a GrpcEmitter
_MESSAGE_BYTES = 64 << 20


class Sink:
    """The call to the sink; `held` are the streams whose messages wait for a place in its window."""

    def __init__(self) -> None:
        self.places = _SINK_BATCHES
        self.held: deque[RelayedStream] = deque()

    async def connect(self, address: str) -> None:
        """Begin the call."""
        self._connection = await Channel(Target(address)).connection()
        self._stream = self._connection.begin(request_head(address, _STREAM_EVENTS, tls=False), self)

    def send(self, message: bytes) -> None:
        """Send a message."""
        self.places -= 1
        self._connection.post(self._stream, (message,))

    def answered(self, message: bytes) -> None:
        """Have a place free."""
        self.places += 1
        while self.held and self.places:
            self.held.popleft().go_on()

    def ended(self, status: Status) -> None:
        """End: what comes later would have nowhere to go."""
        sys.exit(f"the sink ended the call: {status}")

    def leaving(self, reason: str) -> None:
        """Stay: the sink lives as long as the relay."""


class RelayedStream:
    """One stream: filter, transform, send on, acknowledge."""

    def __init__(self, call: StreamCall, sink: Sink) -> None:
        self._call = call
        self._sink = sink
        self._waiting: deque[bytes] = deque()
        self._has_ended = False

    def messages(self, messages: list[bytes]) -> bool:
        """Take what the sink has places for; the rest waits, and the client gets no credit meanwhile."""
        self._waiting += messages
        return self._take()

    def go_on(self) -> None:
        """Take what waits."""
        if self._take():
            self._call.go_on()
            if self._has_ended:
                self._call.finish(Status(StatusCode.OK))

    def ended(self) -> None:
        """Finish when all is answered."""
        self._has_ended = True
        if not self._waiting:
            self._call.finish(Status(StatusCode.OK))

    def drained(self) -> None:
        """Nothing waits for that."""

    def leave(self, status: Status) -> None:
        """Nothing waits for that."""

    def lost(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def _take(self) -> bool:
        while self._waiting and self._sink.places:
            self._relay(self._waiting.popleft())
        if self._waiting:
            self._sink.held.append(self)
        return not self._waiting

    def _relay(self, message: bytes) -> None:
        batch = IngestBatch.FromString(message)
        events = list(batch.events.events)
        ids = [event.id for event in events]
        for event in events:
            if event.event_type.startswith("user."):
                event.metadata["processed"] = "true"
        self._sink.send(batch.SerializeToString())
        self._call.send(Ack(event_ids=ids).SerializeToString())


def echo(connection: GrpcConnection, calls: list[tuple[int, bytes]]) -> None:
    """Acknowledge unary calls."""
    for number, message in calls:
        connection.respond(number, Ack(event_ids=[IngestEvent.FromString(message).event.id]).SerializeToString())


async def main(order: dict[str, Any]) -> None:
    """Serve until SIGTERM, in the language of `polku.bench.host`."""
    sink = Sink()
    await sink.connect(order["sink"].removeprefix("http://"))
    methods: dict[bytes, Method] = {
        _STREAM_EVENTS.encode(): StreamMethod(lambda call: RelayedStream(call, sink)),
        b"/polku.v1.Gateway/SendEvent": BatchMethod(echo),
    }
    places = Places("connections", total=1000, each=1000, idle_seconds=60.0)
    port = GrpcPort(methods, ConnectionLimits(), message_limit=_MESSAGE_BYTES, places=places)
    server = await asyncio.get_running_loop().create_server(lambda: GrpcConnection(port), "127.0.0.1", 0)

    async def stop() -> None:
        server.close()

    await answer_until_stopped(order, server.sockets[0].getsockname()[1], stop)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(json.loads(sys.argv[1])))
