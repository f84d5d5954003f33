"""A destination that asks to go on with another connection, and does not end its calls."""

from __future__ import annotations

import asyncio

from polku import Batch, Event, GrpcEmitter
from polku.clock import SystemClock
from polku.gateway.grpc.calls import StreamCall, StreamMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2.limits import ConnectionLimits
from polku.rpc.status import Status
from polku.v1.gateway_pb2 import Ack, IngestBatch


class _Lingering:
    """Acknowledge each message and ask the client to leave; never end the call."""

    def __init__(self, call: StreamCall) -> None:
        self._call = call

    def messages(self, messages: list[bytes]) -> bool:
        for message in messages:
            events = IngestBatch.FromString(message).events.events
            self._call.send(Ack(event_ids=[event.id for event in events]).SerializeToString())
        self._call._connection.drain()
        self._call._connection.refuse_new()
        return True

    def ended(self) -> None:
        """Leave the client without an end."""

    def drained(self) -> None: ...

    def leave(self, status: Status) -> None: ...

    def lost(self) -> None: ...


async def test_a_call_that_the_destination_does_not_end_holds_up_nothing() -> None:
    port = GrpcPort(
        {b"/polku.v1.Gateway/StreamEvents": StreamMethod(_Lingering)},
        ConnectionLimits(),
        message_limit=1 << 20,
        places=Places("connections", total=100, each=100, idle_seconds=60.0),
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: GrpcConnection(port), "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    running = GrpcEmitter(address, timeout=10).build(SystemClock())
    for name in "abc":
        assert await running.emit(Batch.from_events([Event(id=name, event_type="t")])) == []
    assert running.statistics().reconnects == 2
    async with asyncio.timeout(30):
        while len(port.connections) > 1:  # noqa: ASYNC110 - nothing tells that a connection has ended
            await asyncio.sleep(0.01)
    await running.close()
    server.close()
