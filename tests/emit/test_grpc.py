"""The GrpcEmitter, against real gateways that work, refuse, break, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from polku import Batch, Event, Failure, GrpcEmitter, MisconfiguredError, RetryableError
from polku.clock import SystemClock
from polku.emit.grpc_client import GrpcClient
from tests.emit.sink import Sink, sink


def batch(*ids: str, size: int = 0) -> Batch:
    return Batch.from_events([Event(id=event_id, event_type="t", payload=b"x" * size) for event_id in ids])


@asynccontextmanager
async def emitter(*endpoints: str, **options: Any) -> AsyncIterator[GrpcClient]:
    running = GrpcEmitter(list(endpoints), **options).build(SystemClock())
    try:
        yield running
    finally:
        await running.close()


@pytest.fixture
async def server() -> AsyncIterator[Sink]:
    async with sink() as server:
        yield server


async def test_a_batch_arrives_as_it_is_and_is_confirmed(server: Sink) -> None:
    async with emitter(server.address, source="us", cluster="here", token="secret") as running:
        assert await running.emit(batch("a", "b")) == []
    (received,) = server.batches
    assert (received.source, received.cluster, server.ids) == ("us", "here", ["a", "b"])
    assert server.metadata[0]["authorization"] == "Bearer secret"


async def test_batches_under_way_together_keep_their_order(server: Sink) -> None:
    async with emitter(server.address) as running:
        results = await asyncio.gather(*(running.emit(batch(f"{n:03d}")) for n in range(100)))
    assert results == [[]] * 100
    assert server.ids == [f"{n:03d}" for n in range(100)]


async def test_refused_events_are_failures_of_their_kind(server: Sink) -> None:
    server.refuse = {"full": "BUFFER_FULL", "bad": "INVALID_EVENT", "gone": "FORGET"}.get
    async with emitter(server.address) as running:
        failures = {failure.event_id: failure for failure in await running.emit(batch("ok", "full", "bad", "gone"))}
    assert {event_id: failure.retryable for event_id, failure in failures.items()} == {
        "full": True,
        "bad": False,
        "gone": True,
    }
    assert "refused on request" in failures["bad"].reason


async def test_a_large_batch_is_split_and_a_too_large_event_named(server: Sink) -> None:
    async with emitter(server.address, max_message_bytes=10_000) as running:
        assert await running.emit(batch(*map(str, range(10)), size=3_000)) == []
        (failure,) = await running.emit(batch("huge", size=20_000))
    assert server.ids == [str(n) for n in range(10)]
    assert len(server.batches) >= 4
    assert failure == Failure("huge", failure.reason, retryable=False)
    assert "10000" in failure.reason


async def test_a_destination_that_is_down_is_retryable_and_found_again(server: Sink) -> None:
    port = server.port
    await server.stop()
    async with emitter(server.address, timeout=5) as running:
        with pytest.raises(RetryableError, match=str(port)):
            await running.emit(batch("early"))
        await server.start(port)
        for _ in range(100):
            try:
                assert await running.emit(batch("late")) == []
                break
            except RetryableError:
                await asyncio.sleep(0.05)
    assert server.ids == ["late"]


async def test_a_broken_stream_fails_what_is_open_and_the_next_batch_opens_another(server: Sink) -> None:
    server.break_after = 1
    async with emitter(server.address) as running:
        assert await running.emit(batch("first")) == []
        with pytest.raises(RetryableError, match="broken on request"):
            await running.emit(batch("second"))
        assert await running.emit(batch("third")) == []
        assert running.statistics().reconnects == 1


async def test_a_destination_that_never_answers_times_out(server: Sink) -> None:
    server.silent = True
    async with emitter(server.address, timeout=0.2) as running:
        with pytest.raises(RetryableError, match=r"no Ack within 0\.2 s"):
            await running.emit(batch("a"))


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED])
async def test_wrong_credentials_or_services_are_misconfiguration(server: Sink, status: grpc.StatusCode) -> None:
    server.abort = status
    async with emitter(server.address) as running:
        with pytest.raises(MisconfiguredError, match=status.name):
            await running.emit(batch("a"))


async def test_the_least_loaded_endpoint_is_chosen_and_a_dead_one_avoided(server: Sink) -> None:
    async with sink() as other, emitter(server.address, other.address) as running:
        server.fullness, other.fullness = 90, 10
        for n in range(10):
            await running.emit(batch(str(n)))
        assert len(other.ids) >= 8
        await other.stop()
        delivered = 0
        for n in range(10, 20):
            try:
                delivered += not await running.emit(batch(str(n)))
            except RetryableError:
                continue
        assert delivered >= 8


async def test_closing_twice_is_harmless(server: Sink) -> None:
    running = GrpcEmitter(server.address).build(SystemClock())
    await running.emit(batch("a"))
    await running.close()
    await running.close()
