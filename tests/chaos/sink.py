"""A destination that writes down what it acknowledges: `python -m tests.chaos.sink FOLDER PORT`."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import Ack, AckError, IngestBatch
from tests.chaos.files import Writer


class Sink(gateway_pb2_grpc.GatewayServicer):
    """Acknowledge, after writing down; while `<folder>/sink.mood` says so: slowly, with garbage, or not at all."""

    def __init__(self, folder: Path) -> None:
        self._writer = Writer(folder, "grpc")
        self._mood = folder / "sink.mood"

    async def StreamEvents(self, requests: AsyncIterator[IngestBatch], context: Any) -> AsyncIterator[Ack]:
        async for batch in requests:
            mood = self._mood.read_text() if self._mood.exists() else ""
            if mood == "silent":
                await asyncio.sleep(3600)
            if mood == "slow":
                await asyncio.sleep(0.2)
            if mood == "flapping" and random.random() < 0.3:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "flapping")
            if mood == "full" and random.random() < 0.5:
                events = batch.events.events
                half = len(events) // 2
                self._writer.write(type(batch.events)(events=events[:half]).SerializeToString())
                errors = [AckError(event_id=e.id, code="BUFFER_FULL", message="full") for e in events[half:]]
                yield Ack(event_ids=[e.id for e in events[:half]], errors=errors)
                continue
            self._writer.write(batch.events.SerializeToString())
            if mood == "garbage":
                yield Ack(event_ids=["nobody"])
                continue
            yield Ack(event_ids=[event.id for event in batch.events.events])


async def serve(folder: Path, port: str) -> None:
    server = grpc.aio.server()
    sink = Sink(folder)  # type: ignore[abstract]  # the methods that it lacks answer "unimplemented"
    gateway_pb2_grpc.add_GatewayServicer_to_server(sink, server)
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
