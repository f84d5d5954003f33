"""The GrpcEmitter with another POLKU at the other end: its limits, its drain and its return."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from msgspec.structs import replace

from polku import Batch, Event, GrpcEmitter, Hub, Limits, Pipeline, RetryableError
from polku.clock import SystemClock
from polku.emit.grpc.client import GrpcClient
from polku.gateway.grpc import server
from polku.gateway.grpc.server import connection_limits
from polku.http2 import connection
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch
from tests.support.recorder import Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture(params=["native", "grpcio"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    return str(request.param)


def batch(*ids: str, size: int = 0) -> Batch:
    return Batch.from_events([Event(id=event_id, event_type="t", payload=b"x" * size) for event_id in ids])


def open_pipeline(recorder: Recorder, limits: Limits | None = None, address: str = "127.0.0.1:0") -> Pipeline:
    hub = Hub(runtime="inline").emitter(recorder)
    return (hub.limits(limits) if limits is not None else hub).start(grpc_addr=address)


async def test_the_size_that_a_gateway_takes_is_learned(recorder: Recorder, door: str) -> None:
    async with open_pipeline(recorder, Limits(message_bytes=10_000)) as pipeline:
        running = GrpcEmitter(str(pipeline.address)).build(SystemClock())
        assert await running.emit(batch(*map(str, range(100)), size=3_000)) == []
        (failure,) = await running.emit(batch("huge", size=200_000))
        await running.close()
    assert [event.id for event in recorder.events()] == [str(n) for n in range(100)]
    assert (failure.event_id, failure.retryable) == ("huge", False)
    assert "limit is" in failure.reason


async def test_a_gateway_that_drains_and_another_in_its_place_lose_nothing_and_keep_order(recorder: Recorder) -> None:
    pipeline = open_pipeline(recorder)
    await pipeline.__aenter__()
    address = str(pipeline.address)
    running = GrpcEmitter(address).build(SystemClock())
    sent: list[str] = []

    async def send_on() -> None:
        while True:
            name = f"{len(sent):06d}"
            await confirmed(running, batch(name))
            sent.append(name)
            await asyncio.sleep(0)

    sending = asyncio.ensure_future(send_on())
    for _ in range(2):
        before = len(sent)
        async with asyncio.timeout(30):
            while len(sent) < before + 20:  # noqa: ASYNC110 - the sender goes on
                await asyncio.sleep(0.01)
        await pipeline.__aexit__(None, None, None)
        pipeline = open_pipeline(recorder, address=address)
        await pipeline.__aenter__()
    await asyncio.sleep(0.05)
    sending.cancel()
    await asyncio.wait((sending,))
    await running.close()
    await pipeline.__aexit__(None, None, None)
    delivered = [event.id for event in recorder.events()]
    assert set(sent) <= set(delivered)
    assert delivered == sorted(delivered)
    assert len(delivered) - len(set(delivered)) <= 2, "a batch came twice whose Ack was sent"


async def test_a_connection_that_reaches_its_age_is_changed_for_another_and_no_batch_fails(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(connection_limits(Limits()), age_seconds=0.15)
    monkeypatch.setattr(server, "connection_limits", lambda _: limits)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(connection, "_LAST_CALLS_SECONDS", 0.03)
    sent = 0
    async with open_pipeline(recorder) as pipeline:
        running = GrpcEmitter(str(pipeline.address)).build(SystemClock())
        async with asyncio.timeout(30):
            while running.statistics().reconnects < 3:
                assert await running.emit(batch(f"{sent:06d}")) == []
                sent += 1
                await asyncio.sleep(0.001)
        await running.close()
    assert [event.id for event in recorder.events()] == [f"{number:06d}" for number in range(sent)]


async def test_a_stream_on_a_connection_of_its_age_ends_behind_its_acks(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(connection_limits(Limits()), age_seconds=0.15)
    monkeypatch.setattr(server, "connection_limits", lambda _: limits)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(connection, "_LAST_CALLS_SECONDS", 0.03)
    async with open_pipeline(recorder) as pipeline, grpc.aio.insecure_channel(str(pipeline.address)) as channel:
        stub: Any = gateway_pb2_grpc.GatewayStub(channel)
        call = stub.StreamEvents()
        events = EventPayload(events=[Event(id="a", event_type="t")])
        await call.write(IngestBatch(source="s", events=events))
        assert list((await call.read()).event_ids) == ["a"]
        with pytest.raises(grpc.aio.AioRpcError, match="reached its age"):
            async with asyncio.timeout(30):
                await call.read()
    assert [event.id for event in recorder.events()] == ["a"]


async def confirmed(running: GrpcClient, events: Batch) -> None:
    """Send a batch until it is confirmed."""
    while True:
        try:
            failures = await running.emit(events)
        except RetryableError:
            await asyncio.sleep(0.02)
            continue
        if not failures:
            return
        assert all(failure.retryable for failure in failures)
        await asyncio.sleep(0.02)
