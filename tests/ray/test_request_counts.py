"""Through actors, replicas and deaths too a unary call and an HTTP request hear of their own events alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

from polku import BufferStrategy, Deduplicator, Event, Filter, Hub, Pipeline, new_event
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestEvent, MiddlewareStats
from tests.gateway.http_client import post
from tests.ray.test_deaths import sights, wait_for_restart
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")


def is_wanted(event: Event) -> bool:
    return event.event_type != "noise"


def is_no_chatter(event: Event) -> bool:
    return event.event_type != "chatter"


def made(number: int) -> tuple[list[Event], MiddlewareStats]:
    """Make a request of which some events are filtered, here or there, and some have an id that was there before."""
    noise, chatter, duplicates, good = number % 3, number % 4, number % 2, number % 5 + 1
    events = [new_event("x", source="s") for _ in range(good)]
    events[1:1] = [new_event("noise", source="s") for _ in range(noise)]
    events += [new_event("x", source="s", id="seen") for _ in range(duplicates)]
    events += [new_event("chatter", source="s") for _ in range(chatter)]
    stats = MiddlewareStats(
        filtered_count=noise + chatter, dedup_count=duplicates, total_forwarded=good, total_received=len(events)
    )
    return events, stats


def request(events: Sequence[Event]) -> IngestEvent:
    return IngestEvent(source="s", events=EventPayload(events=events))


def check(pipeline: Pipeline, count: int = 120) -> None:
    """Send requests side by side and look at what each is told."""
    requests = [made(number) for number in range(count)]
    with grpc.insecure_channel(str(pipeline.address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        stub.SendEvent(request([new_event("x", source="s", id="seen")]), wait_for_ready=True, timeout=30)
        calls = [stub.SendEvent.future(request(events), timeout=60) for events, _ in requests]
        assert [call.result().middleware_stats for call in calls] == [stats for _, stats in requests]


@pytest.mark.parametrize(
    "arrangement", ["native", *(pytest.param(name, marks=pytest.mark.slow) for name in ("actors", "chained"))]
)
def test_calls_side_by_side_hear_each_of_its_own_events(
    arrangement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLKU_DOOR", "native" if arrangement == "native" else "grpcio")
    hub = Hub(runtime="ray").middleware(Filter(is_wanted)).middleware(Filter(is_no_chatter), replicas=2)
    hub = hub.middleware(Deduplicator()).emitter(Recorder(tmp_path / "out"))
    hub = hub.chain() if arrangement == "chained" else hub
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        check(pipeline)
        events, stats = made(11)
        body = EventPayload(events=events).SerializeToString()
        answer = post(str(pipeline.http_address), body, "application/x-protobuf")
        assert MiddlewareStats(**answer.body["middleware_stats"]) == stats


@pytest.mark.slow
def test_what_a_full_buffer_drops_counts_for_the_request_that_brought_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    recorder.hold()
    hub = Hub(runtime="ray").middleware(Filter(is_wanted))
    hub = hub.buffer_strategy(BufferStrategy.ring(4, overflow="drop_newest")).emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        requests = [["x"], ["noise", "x", "x", "x", "x", "x", "x"]]
        acks = [stub.SendEvent(request([new_event(kind, source="s") for kind in kinds])) for kinds in requests]
        recorder.release()
    numbers = [ack.middleware_stats for ack in acks]
    told = [(s.total_received, s.filtered_count, s.total_forwarded, s.buffer_overflow_count) for s in numbers]
    assert told == [(1, 0, 1, 0), (7, 1, 6, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("dies", [pytest.param("stage-1", marks=pytest.mark.slow), "buffer"])
def test_a_call_that_outlives_a_death_hears_of_its_own_events(dies: str, tmp_path: Path) -> None:
    hub = Hub(runtime="ray").middleware(Filter(is_wanted)).middleware(Filter(is_no_chatter))
    hub = hub.buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db")).emitter(Recorder(tmp_path / "out"))
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        seen, _ = sights(pipeline)
        killed = threading.Timer(0.2, os.kill, (seen[dies].vitals.pid, signal.SIGKILL))
        killed.start()
        with grpc.insecure_channel(str(pipeline.address)) as channel:
            stub = gateway_pb2_grpc.GatewayStub(channel)
            while killed.is_alive():
                requests = [made(number) for number in range(0, 40, 2)]  # none with a duplicate
                calls = [stub.SendEvent.future(request(events), timeout=60) for events, _ in requests]
                assert [call.result().middleware_stats for call in calls] == [stats for _, stats in requests]
            calls = [stub.SendEvent.future(request(events), timeout=60) for events, _ in requests]
            assert [call.result().middleware_stats for call in calls] == [stats for _, stats in requests]
        wait_for_restart(pipeline, dies)
