"""A real gateway to send to: it records what it gets, and misbehaves on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from polku.v1.gateway_pb2 import Ack, AckError, IngestBatch


class Sink:
    """Serve StreamEvents on a port of this machine."""

    def __init__(self) -> None:
        self.batches: list[IngestBatch] = []
        self.metadata: list[dict[str, str]] = []
        self.refuse: Callable[[str], str | None] = lambda event_id: None  # an AckError code, or None
        self.silent = False
        self.abort: grpc.StatusCode | None = None
        self.break_after: int | None = None
        self.fullness = 0
        self.port = 0
        self._server: Any = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ids(self) -> list[str]:
        """The ids that came, in order."""
        return [event.id for batch in self.batches for event in batch.events.events]

    async def start(self, port: int = 0) -> None:
        """Begin to serve, on a port that is free or the given one."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
        handler = grpc.stream_stream_rpc_method_handler(self._stream, IngestBatch.FromString, Ack.SerializeToString)
        methods = {"StreamEvents": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("polku.v1.Gateway", methods),))
        self.port = server.add_insecure_port(f"127.0.0.1:{port}")
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
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken on request")
            self.batches.append(batch)
            if self.silent:
                await asyncio.Event().wait()
            await context.write(self._ack(batch))

    def _ack(self, batch: IngestBatch) -> Ack:
        ack = Ack(buffer_size=self.fullness, buffer_capacity=100)
        for event in batch.events.events:
            code = self.refuse(event.id)
            if code is None:
                ack.event_ids.append(event.id)
            elif code != "FORGET":
                ack.errors.append(AckError(event_id=event.id, code=code, message="refused on request"))
        return ack


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """Run a sink for the length of a block."""
    server = Sink()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
