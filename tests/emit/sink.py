"""A real gateway to send to: it counts what it gets, and misbehaves on request.

async with sink() as server:
    server.refuse = {"bad": "INVALID_EVENT"}.get  # an AckError's code for an id; "FORGET" leaves it out of the Ack
    ...
    await server.arrived(10)
    assert server.counts["a"] == 1
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from polku.v1.gateway_pb2 import Ack, AckError, IngestBatch


class Sink:
    """Serve StreamEvents on a port of this machine, or on another address that gRPC knows.

    `refuse` says what becomes of an id; `refuse_whole` returns an AckError without an id for a message, or None.
    `answers` returns the messages whose Acks are sent when one has come.
    `silent` takes messages and never answers; `hold` and `release` delay the Acks. `abort` ends each stream at its
    start, `break_after` breaks one stream, once so many messages came. `fullness` is what Acks say of 100.
    `message_bytes` is the size limit that gRPC keeps.
    """

    def __init__(self) -> None:
        self.batches: list[IngestBatch] = []
        self.taken: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.refuse: Callable[[str], str | None] = lambda event_id: None
        self.refuse_whole: Callable[[IngestBatch], AckError | None] = lambda batch: None
        self.answers: Callable[[IngestBatch], list[IngestBatch]] = lambda batch: [batch]
        self.silent = False
        self.abort: grpc.StatusCode | None = None
        self.break_after: int | None = None
        self.break_code = grpc.StatusCode.UNAVAILABLE
        self.break_text = "broken on request"
        self.fullness = 0
        self.message_bytes = -1
        self.credentials: grpc.ServerCredentials | None = None
        self.port = self.waiting = 0
        self._server: Any = None
        self._released = asyncio.Event()
        self._released.set()
        self._news = asyncio.Condition()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{'https' if self.credentials else 'http'}://127.0.0.1:{self.port}"

    @property
    def ids(self) -> list[str]:
        """The ids that came, in order."""
        return [event.id for batch in self.batches for event in batch.events.events]

    @property
    def counts(self) -> Counter[str]:
        """How often each id came."""
        return Counter(self.ids)

    async def arrived(self, events: int, timeout: float = 30.0) -> None:
        """Wait until so many events have come."""
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: len(self.ids) >= events)

    def hold(self) -> None:
        """Send no Acks from now on."""
        self._released.clear()

    def release(self) -> None:
        """Send all Acks that are due, and go on."""
        self._released.set()

    async def start(self, port: int = 0, address: str = "") -> None:
        """Begin to serve, on a port that is free, on the given one, or on the given address."""
        options = [("grpc.max_receive_message_length", self.message_bytes), ("grpc.so_reuseport", 0)]
        server = grpc.aio.server(options=options)
        handler = grpc.stream_stream_rpc_method_handler(self._stream, IngestBatch.FromString, Ack.SerializeToString)
        methods = {"StreamEvents": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("polku.v1.Gateway", methods),))
        address = address or f"127.0.0.1:{port}"
        if self.credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, self.credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Break all connections and close the port."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0)

    async def _stream(self, requests: AsyncIterator[IngestBatch], context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.abort is not None:
            await context.abort(self.abort, "as asked")
        async for batch in requests:
            if self.break_after is not None and len(self.batches) >= self.break_after:
                self.break_after = None
                await context.abort(self.break_code, self.break_text)
            self.batches.append(batch)
            self.taken += [event.id for event in batch.events.events if self.refuse(event.id) is None]
            async with self._news:
                self._news.notify_all()
            if self.silent:
                await asyncio.Event().wait()
            self.waiting += 1
            try:
                await self._released.wait()
            finally:
                self.waiting -= 1
            for answered in self.answers(batch):
                await context.write(self._ack(answered))

    def _ack(self, batch: IngestBatch) -> Ack:
        ack = Ack(buffer_size=self.fullness, buffer_capacity=100)
        whole = self.refuse_whole(batch)
        if whole is not None:
            ack.errors.append(whole)
            return ack
        for event in batch.events.events:
            code = self.refuse(event.id)
            if code is None:
                ack.event_ids.append(event.id)
            elif code != "FORGET":
                ack.errors.append(AckError(event_id=event.id, code=code, message="refused on request"))
        return ack


@asynccontextmanager
async def sink(*, credentials: grpc.ServerCredentials | None = None, message_bytes: int = -1) -> AsyncIterator[Sink]:
    """Run a sink for the length of a block."""
    server = Sink()
    server.credentials, server.message_bytes = credentials, message_bytes
    await server.start()
    try:
        yield server
    finally:
        server.release()
        await server.stop()
