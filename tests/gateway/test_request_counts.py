"""A call of SendEvent and an HTTP request hear of their own events; a stream of all since its connection began."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from polku import (
    BufferStrategy,
    Deduplicator,
    Event,
    Filter,
    Hub,
    IngestContext,
    Pipeline,
    RateLimiter,
    RecordError,
    Sampler,
    new_event,
)
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch, IngestEvent, MiddlewareStats
from tests.gateway.http_client import curl, post
from tests.support.recorder import Recorder


@pytest.fixture(params=["grpcio", "native"], autouse=True)
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every behaviour, with each of the doors."""
    monkeypatch.setenv("POLKU_DOOR", request.param)
    return str(request.param)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


def start(hub: Hub) -> Pipeline:
    return hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0")


def is_wanted(event: Event) -> bool:
    return event.event_type != "noise"


def read_each(data: bytes, context: IngestContext) -> Iterator[Event | RecordError]:
    for kind in data.decode().split():
        yield RecordError("cannot be read") if kind == "bad" else new_event(kind, source="raw")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").middleware(Filter(is_wanted)).middleware(Deduplicator())
    with start(hub.ingestor(read_each, source="raw").emitter(recorder)) as pipeline:
        assert send(pipeline, new_event("first", source="s", id="seen")).total_forwarded == 1
        yield pipeline


@pytest.fixture
def stub(pipeline: Pipeline) -> Iterator[Any]:
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        yield gateway_pb2_grpc.GatewayStub(channel)


def request(events: Sequence[Event]) -> IngestEvent:
    return IngestEvent(source="s", events=EventPayload(events=events))


def send(pipeline: Pipeline, *events: Event) -> MiddlewareStats:
    """Send events by one unary call."""
    return send_each(pipeline, events)[0]


def send_each(pipeline: Pipeline, *requests: Sequence[Event]) -> list[MiddlewareStats]:
    """Send events by one unary call after the other, on one connection."""
    with grpc.insecure_channel(str(pipeline.address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        return [stub.SendEvent(request(events), timeout=30).middleware_stats for events in requests]


def several(count: int) -> list[Event]:
    return [new_event("x", source="s") for _ in range(count)]


def made(number: int) -> tuple[list[Event], MiddlewareStats]:
    """Make a request of which some events are filtered, and some have an id that was there before."""
    noise, duplicates, good = number % 3, number % 2, number % 5 + 1
    events = [new_event("noise", source="s") for _ in range(noise)]
    events += [new_event("x", source="s", id="seen") for _ in range(duplicates)]
    events += [new_event("x", source="s") for _ in range(good)]
    stats = MiddlewareStats(
        filtered_count=noise, dedup_count=duplicates, total_forwarded=good, total_received=len(events)
    )
    return events, stats


def test_calls_side_by_side_hear_each_of_its_own_events(stub: Any) -> None:
    requests = [made(number) for number in range(120)]
    calls = [stub.SendEvent.future(request(events)) for events, _ in requests]
    assert [call.result(timeout=20).middleware_stats for call in calls] == [stats for _, stats in requests]


def test_http_requests_side_by_side_hear_each_of_its_own_events(pipeline: Pipeline) -> None:
    requests = [made(number) for number in range(60)]

    async def post_all() -> list[dict[str, int]]:
        async with aiohttp.ClientSession() as session:

            async def post(events: list[Event]) -> dict[str, int]:
                body = EventPayload(events=events).SerializeToString()
                headers = {"Content-Type": "application/x-protobuf"}
                url = f"http://{pipeline.http_address}/v1/events"
                async with session.post(url, data=body, headers=headers) as answer:
                    stats: dict[str, int] = json.loads(await answer.read())["middleware_stats"]
                    return stats

            return await asyncio.gather(*(post(events) for events, _ in requests))

    for found, (_, stats) in zip(asyncio.run(post_all()), requests, strict=True):
        assert MiddlewareStats(**found) == stats


def test_what_an_ingestor_makes_of_bytes_counts_for_the_call_that_brought_them(pipeline: Pipeline, stub: Any) -> None:
    bodies = [b"noise x x", b"x", b"noise bad", b"bad", b"noise noise"]
    numbers = [(3, 1, 2), (1, 0, 1), (1, 1, 0), (0, 0, 0), (2, 2, 0)]
    calls = [stub.SendEvent.future(IngestEvent(source="raw", raw=body)) for body in bodies]
    stats = [call.result(timeout=20).middleware_stats for call in calls]
    assert [(s.total_received, s.filtered_count, s.total_forwarded) for s in stats] == numbers
    answers = [post(str(pipeline.http_address), body, "text/x", query="?source=raw").body for body in bodies]
    found = [answer["middleware_stats"] for answer in answers]
    assert [(s["total_received"], s["filtered_count"], s["total_forwarded"]) for s in found] == numbers


def test_a_request_that_is_refused_as_a_whole_counts_nothing(pipeline: Pipeline) -> None:
    answers = [
        post(str(pipeline.http_address), b"{"),
        post(str(pipeline.http_address), b"x", "text/unknown"),
        curl(str(pipeline.http_address), "/v1/nowhere", body=b""),
    ]
    for answer in answers:
        assert answer.status >= 400
        assert set(answer.body["middleware_stats"].values()) == {0}


def test_a_stream_hears_of_all_that_came_since_its_connection_began(pipeline: Pipeline) -> None:
    events = EventPayload(events=[new_event("noise", source="s"), new_event("x", source="s")])
    with grpc.insecure_channel(str(pipeline.address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        acks: list[Ack] = list(stub.StreamEvents(iter([IngestBatch(source="s", events=events)]), timeout=20))
        assert acks[-1].middleware_stats.total_received == 2
        assert send(pipeline, new_event("x", source="s")).total_received == 1
        acks = list(stub.StreamEvents(iter([IngestBatch(source="s", events=events)]), timeout=20))
        stats = acks[-1].middleware_stats
        assert (stats.total_received, stats.filtered_count, stats.total_forwarded) == (5, 2, 2)
        assert stats.dedup_count == 1


def test_a_rate_limit_and_a_sampler_count_for_the_request_whose_events_they_drop(recorder: Recorder) -> None:
    hub = Hub(runtime="inline").middleware(RateLimiter(0.001, burst=5)).middleware(Sampler(0.5))
    with start(hub.emitter(recorder)) as pipeline:
        stats = send_each(pipeline, *map(several, (3, 4, 1)))
    assert [s.rate_limited_count for s in stats] == [0, 2, 1]
    assert [s.total_forwarded + s.sampled_out_count for s in stats] == [3, 2, 0]
    assert sum(s.total_forwarded for s in stats) == len(recorder.events())


def test_what_a_full_buffer_drops_counts_for_the_request_that_brought_it(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(4, overflow="drop_newest"))
    with start(hub.emitter(recorder)) as pipeline:
        stats = send_each(pipeline, *map(several, (1, 6)))
        recorder.release()
    assert [(s.total_received, s.total_forwarded, s.buffer_overflow_count) for s in stats] == [(1, 1, 0), (6, 6, 3)]
