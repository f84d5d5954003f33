"""The deadline of a call is kept by the gateway too: what was taken stays taken, and nothing more is."""

from __future__ import annotations

import asyncio
import time

import hpack
import pytest

from polku import Event, Limits
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.gateway.grpc.server import NativeServer
from polku.gateway.intake import Intake
from polku.health import Health
from polku.http2 import frames as f
from polku.link.link import Link, LocalPeer
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.buffer.parts import until


class Stuck:
    """Take batches, and answer when the test says so."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.go_on = asyncio.Event()

    async def push(self, batch: Batch) -> Receipt:
        self.taken += batch.ids
        await self.go_on.wait()
        return Receipt()


async def healthy() -> Health:
    return Health(True, {}, 0, True, "")


EVENT = Event(id="one", source="s", timestamp_unix_ns=1)
CALLS = {
    "/polku.v1.Gateway/SendEvent": IngestEvent(event=EVENT).SerializeToString(),
    "/polku.v1.Gateway/StreamEvents": IngestBatch(events=EventPayload(events=[EVENT])).SerializeToString(),
}


@pytest.mark.parametrize("path", CALLS)
async def test_a_call_whose_deadline_is_over_ends_and_its_events_go_on(path: str) -> None:

    stuck = Stuck()
    intake = Intake({}, None, Link("link", LocalPeer(stuck)), Limits())
    server = NativeServer(intake, healthy)
    address = await server.start("127.0.0.1:0")
    # A client of grpcio ends its calls itself: this one writes the deadline, and waits for what the gateway says.
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "100m"),
    ]
    message = CALLS[path]
    body = b"\0" + len(message).to_bytes(4, "big") + message
    ends = f.END_STREAM if path.endswith("SendEvent") else 0
    block = bytes(hpack.Encoder().encode(fields))
    writer.write(
        f.PREFACE + f.settings({}) + f.frame(f.HEADERS, f.END_HEADERS, 1, block) + f.frame(f.DATA, ends, 1, body)
    )
    began = time.monotonic()
    seen = b""
    async with asyncio.timeout(30):
        while b"the deadline of the call is over" not in seen.replace(b"%20", b" "):
            seen += await reader.read(65_536)
    assert time.monotonic() - began >= 0.1
    assert stuck.taken == ["one"]
    assert intake.statistics().open == 1
    stuck.go_on.set()
    await until(lambda: intake.statistics().accepted == 1)
    writer.close()
    await server.stop(0)
    await intake.close()
