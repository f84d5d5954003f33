"""A small AHTI for tests: the whole service of `ahti.v1`, which stores what it gets and misbehaves on request.

    async with AhtiServer() as ahti:
        hub = Hub(runtime="inline").emitter(AhtiEmitter(ahti.address))
        ...
        await ahti.arrived(10)
        assert ahti.events[0].subtype == "pod.created"

As a program it prints its address, and keeps every event that it acknowledges in a file: `python -m polku.testing.ahti
--address 127.0.0.1:50060 --store events.bin`; `read_store` reads the file.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Container, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from polku.ahti.v1.events_pb2 import AhtiAck, AhtiEvent, AhtiEventBatch, AhtiHealthRequest, AhtiHealthResponse
from polku.version import __version__

_SERVICE = "ahti.v1.AhtiService"
_Acks = AsyncIterator[AhtiAck]


class AhtiServer:
    """Serve AHTI on a port of this machine; what it stored stays when it is stopped and started again.

    `refuse` says why a batch is not taken (None: it is); events whose ids are in `busy` are neither taken nor named in
    an ack; `names` says which others it names. `hold` and `release` delay the acks, of which `waiting` are due;
    `end_after` ends a stream in good order once so many messages came, the last of them without its ack.
    `message_bytes` is the size limit that gRPC keeps. With a `store` the events are written to that file before they
    are acknowledged.
    """

    def __init__(
        self,
        *,
        store: Path | None = None,
        message_bytes: int = -1,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.batches: list[Sequence[AhtiEvent]] = []
        self.metadata: list[dict[str, str]] = []
        self.refuse: Callable[[Sequence[AhtiEvent]], str | None] = lambda events: None
        self.busy: Container[str] = ()
        self.names: Callable[[Sequence[AhtiEvent]], Sequence[str]] = _ids
        self.abort: grpc.StatusCode | None = None
        self.end_after: int | None = None
        self.port = 0
        self._store = store
        self._message_bytes = message_bytes
        self._credentials = credentials
        self._server: Any = None
        self._released = asyncio.Event()
        self._released.set()
        self._news = asyncio.Condition()
        self.received = self.waiting = 0

    @property
    def address(self) -> str:
        """What an `AhtiEmitter` takes."""
        return f"http://127.0.0.1:{self.port}" if self._credentials is None else f"https://localhost:{self.port}"

    @property
    def events(self) -> list[AhtiEvent]:
        """The events that were taken, in order."""
        return [event for events in self.batches for event in events]

    @property
    def ids(self) -> list[str]:
        """The ids of the events that were taken, in order."""
        return [event.id for event in self.events]

    async def start(self, address: str = "") -> None:
        """Begin to serve: on the port of the last time, on a free one, or on the given `host:port`."""
        options = [("grpc.max_receive_message_length", self._message_bytes), ("grpc.so_reuseport", 0)]
        server = grpc.aio.server(options=options)
        read, write = grpc.unary_unary_rpc_method_handler, AhtiAck.SerializeToString
        methods = {
            "SendEvent": read(self._send_event, AhtiEvent.FromString, write),
            "StreamEvents": grpc.stream_stream_rpc_method_handler(self._stream, AhtiEventBatch.FromString, write),
            "Health": read(self._health, AhtiHealthRequest.FromString, AhtiHealthResponse.SerializeToString),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
        address = address or f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, self._credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Break all connections and close the port."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    def hold(self) -> None:
        """Take what comes, and acknowledge nothing from now on."""
        self._released.clear()

    def release(self) -> None:
        """Send the acks that are due, and go on."""
        self._released.set()

    async def arrived(self, events: int, timeout: float = 10.0) -> None:
        """Wait until so many events have been taken."""
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: sum(map(len, self.batches)) >= events)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.release()
        await self.stop()

    async def _stream(self, requests: AsyncIterator[AhtiEventBatch], context: Any) -> None:
        await self._greet(context)
        async for batch in requests:
            if self.end_after is not None and self.received >= self.end_after:
                self.end_after = None
                return
            await context.write(await self._take(batch.events, context))

    async def _send_event(self, event: AhtiEvent, context: Any) -> AhtiAck:
        await self._greet(context)
        return await self._take([event], context)

    async def _health(self, request: AhtiHealthRequest, context: Any) -> AhtiHealthResponse:
        return AhtiHealthResponse(healthy=True, version=__version__)

    async def _greet(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.abort is not None:
            await context.abort(self.abort, "as asked")

    async def _take(self, events: Sequence[AhtiEvent], context: Any) -> AhtiAck:
        self.received += 1
        error = self.refuse(events)
        if error is not None:
            return AhtiAck(success=False, error=error)
        events = [event for event in events if event.id not in self.busy]
        if not events:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        self.batches.append(events)
        if self._store is not None:
            _append(self._store, events)
        async with self._news:
            self._news.notify_all()
        self.waiting += 1
        try:
            await self._released.wait()
        finally:
            self.waiting -= 1
        return AhtiAck(success=True, event_ids=self.names(events))


def read_store(path: Path) -> list[AhtiEvent]:
    """Return the events that a server has written to its store; the last batch may be half there and is left out."""
    data = path.read_bytes() if path.exists() else b""
    events: list[AhtiEvent] = []
    position = 0
    while position + 4 <= len(data):
        end = position + 4 + int.from_bytes(data[position : position + 4], "little")
        if end > len(data):
            break
        events += AhtiEventBatch.FromString(data[position + 4 : end]).events
        position = end
    return events


def _append(path: Path, events: Sequence[AhtiEvent]) -> None:
    data = AhtiEventBatch(events=events).SerializeToString()
    with path.open("ab") as file:
        file.write(len(data).to_bytes(4, "little") + data)


def _ids(events: Sequence[AhtiEvent]) -> list[str]:
    return [event.id for event in events]


async def _serve(address: str, store: Path | None) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = AhtiServer(store=store)
    await server.start(address)
    print(f"http://{address.rpartition(':')[0]}:{server.port}", flush=True)
    await ended.wait()
    await server.stop()


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="A small AHTI for tests.")
    parser.add_argument("--address", default="127.0.0.1:0", help="HOST:PORT to listen on; port 0: any free one")
    parser.add_argument("--store", type=Path, help="a file to keep the events in")
    options = parser.parse_args()
    asyncio.run(_serve(options.address, options.store))


if __name__ == "__main__":
    main()
