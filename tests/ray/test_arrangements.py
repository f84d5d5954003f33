"""Chained lanes, lanes side by side, replicas and shared stages: the same promises in every arrangement."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import (
    Aggregator,
    BufferStrategy,
    Deduplicator,
    Event,
    Filter,
    Hub,
    Pipeline,
    RateLimiter,
    Router,
    Transform,
    new_event,
)
from polku.errors import JournalError, SettingError
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch
from tests.ray.test_deaths import Client, check, mark, sights, wait_for_restart
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")


def seen_by(event: Event) -> None:
    event.metadata["pid"] = str(os.getpid())


def is_user(event: Event) -> bool:
    return event.event_type.startswith("user.")


def numbered(count: int, source: str = "test") -> list[Event]:
    return [new_event("user.x", source=source, id=f"{source}-{number:06d}") for number in range(count)]


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


class Connection:
    """One client with a connection of its own."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._stream = gateway_pb2_grpc.GatewayStub(self._channel).StreamEvents

    def send(self, *batches: list[Event]) -> list[Ack]:
        messages = [IngestBatch(source="test", events=EventPayload(events=batch)) for batch in batches]
        return list(self._stream(iter(messages), wait_for_ready=True, timeout=30))

    def close(self) -> None:
        self._channel.close()


def lanes_of(pipeline: Pipeline, clients: int = 16) -> dict[str, int]:
    """Return how many events each lane has taken in."""
    seen, _ = sights(pipeline)
    return {name: getattr(sight.statistics, "intake", sight.statistics).received for name, sight in seen.items()}


@pytest.mark.parametrize("chained", [pytest.param(True, marks=pytest.mark.slow), False], ids=["chained", "actors"])
def test_two_lanes_share_a_port_and_lose_nothing(chained: bool, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").lanes(2).middleware(Filter(is_user)).middleware(Transform(mark)).emitter(recorder)
    with (hub.chain() if chained else hub).start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        doors = ("lane-1", "lane-2") if chained else ("lane-1/ingest", "lane-2/ingest")
        sent: list[str] = []
        received: dict[str, int] = {}
        for number in range(30):
            events = numbered(100, f"client-{number}")
            client = Connection(str(pipeline.address))
            (ack,) = client.send(events)
            client.close()
            assert ack.event_ids == ids(events)
            sent += ack.event_ids
            seen, _ = sights(pipeline)
            received = {name: getattr(s := seen[name].statistics, "intake", s).received for name in doors}
            if number > 3 and all(received.values()):
                break
        assert all(received.values()), f"all connections went to one lane: {received}"
        with pytest.raises(SettingError, match="in use"):  # a port is shared by the lanes of one pipeline alone
            Hub(runtime="ray").lanes(2).chain().emitter(recorder).start(grpc_addr=str(pipeline.address))
        health = pipeline.health()
        assert health.healthy
        assert health.processed == len(sent)
        assert {"lane-1/buffer", "lane-2/buffer", "lane-2/emitter:recorder"} <= set(health.components)
        report = pipeline.stop()
    assert report.complete
    assert report.emitters["recorder"].delivered == len(sent)
    got = recorder.events()
    assert sorted(ids(got)) == sorted(sent)
    assert all(event.metadata["processed"] == "true" for event in got)


@pytest.mark.slow
def test_a_port_that_somebody_else_has_is_not_shared(tmp_path: Path) -> None:
    hub = Hub(runtime="ray").lanes(2).chain().emitter(Recorder(tmp_path / "out"))
    with hub.start(grpc_addr="127.0.0.1:0") as first:
        with pytest.raises(SettingError, match="in use"):
            hub.start(grpc_addr=first.address)
        assert first.sender().send(numbered(10)).ok


def test_a_killed_lane_comes_back_and_the_other_goes_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    strategy = BufferStrategy.durable(tmp_path / "journal.db")
    hub = Hub(runtime="ray").lanes(2).chain().buffer_strategy(strategy).middleware(mark).emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(str(pipeline.address))
        client.start()
        client.wait_for(2_000)
        seen, _ = sights(pipeline)
        busy, idle = sorted(("lane-1", "lane-2"), key=lambda lane: -seen[lane].statistics.intake.received)
        os.kill(seen[idle].vitals.pid, signal.SIGKILL)
        client.wait_for(len(client.acked) + 2_000)
        assert client.reconnects == 0  # the death of one lane does not touch the clients of the other
        wait_for_restart(pipeline, idle)
        os.kill(seen[busy].vitals.pid, signal.SIGKILL)
        client.wait_for(len(client.acked) + 4_000)
        client.stop.set()
        client.join(60)
        assert client.reconnects > 0
        wait_for_restart(pipeline, busy)
        report = pipeline.stop(30)
    assert report.complete
    # The journals of both lanes are delivered side by side: order holds within each.
    acked, got = set(client.acked), recorder.events()
    assert len(acked) > 8_000
    assert acked <= set(ids(got))


@pytest.mark.slow
def test_a_lane_that_is_no_more_must_not_leave_events_behind(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")

    def hub(lanes: int) -> Hub:
        strategy = BufferStrategy.durable(tmp_path / "journal.db")
        return Hub(runtime="ray").lanes(lanes).chain().buffer_strategy(strategy).emitter(recorder)

    recorder.hold()
    pipeline = hub(2).start()
    sent: list[str] = []
    while not all(s.statistics.intake.received for s in sights(pipeline)[0].values()):
        sender = pipeline.sender()  # each sender chooses a lane for itself
        sent += sender.send(numbered(10, f"sender-{len(sent)}")).event_ids
    report = pipeline.stop(0.5)
    assert report.emitters["recorder"].journaled == len(sent)
    with pytest.raises(JournalError, match=r"of lane 2.*run with lanes\(2\)"):
        hub(1).start()
    recorder.release()
    with hub(2).start():
        recorder.wait_for(len(sent))
    assert set(ids(recorder.events())) == set(sent)
    with hub(1).start() as pipeline:
        assert pipeline.sender().send(numbered(1)).ok


@pytest.mark.parametrize("chained", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["chained", "actors"])
def test_replicas_work_side_by_side_and_keep_the_order(chained: bool, tmp_path: Path) -> None:
    def slow(event: Event) -> None:
        time.sleep(0.0002)
        seen_by(event)

    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").middleware(Filter(is_user)).middleware(slow, replicas=3).middleware(mark)
    with (hub.chain() if chained else hub).emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Connection(str(pipeline.address))
        batches = [[*numbered(100, f"b{number:02d}"), new_event("other", source="x")] for number in range(40)]
        acks = client.send(*batches)
        client.close()
        counts = acks[-1].middleware_stats
        assert (counts.total_received, counts.filtered_count) == (4_040, 40)
        assert pipeline.health().healthy
    got = recorder.events()
    assert ids(got) == [event.id for batch in batches for event in batch if event.event_type == "user.x"]
    assert len({event.metadata["pid"] for event in got}) == 3
    assert all(event.metadata["processed"] == "true" for event in got)


@pytest.mark.slow
def test_a_killed_replica_comes_back_and_nothing_is_lost_or_out_of_order(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").chain().middleware(mark, replicas=2).emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(str(pipeline.address))
        client.start()
        client.wait_for(2_000)
        os.kill(sights(pipeline)[0]["stage-1/replica-2"].vitals.pid, signal.SIGKILL)
        client.wait_for(len(client.acked) + 4_000)
        client.stop.set()
        client.join(60)
        wait_for_restart(pipeline, "stage-1/replica-2")
        assert pipeline.stop(30).complete
    check(client.acked, recorder.events(), may_repeat=False)


@pytest.mark.slow  # test_poison.py has a stage of one process
def test_an_event_that_kills_replicas_is_found(tmp_path: Path) -> None:
    def die_of_it(event: Event) -> None:
        if event.id == "test-000007":
            os._exit(1)

    recorder = Recorder(tmp_path / "out")
    with Hub(runtime="ray").middleware(die_of_it, replicas=2).emitter(recorder).start() as pipeline:
        receipt = pipeline.sender().send(numbered(8))
        assert [(refusal.event_id, str(refusal.code)) for refusal in receipt.refused] == [("test-000007", "POISON")]
        assert [letter.event.id for letter in pipeline.dead_letters()] == ["test-000007"]
    assert ids(recorder.events()) == ids(numbered(7))


@pytest.mark.slow  # test_partitions.py has two lanes that share a step
def test_what_must_be_seen_whole_is_shared_by_all_lanes(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").lanes(2).chain().middleware(mark).middleware(Deduplicator()).middleware(seen_by)
    with hub.emitter(recorder).start() as pipeline:
        for _ in range(8):  # each sender chooses a lane for itself
            assert pipeline.sender().send(numbered(50)).ok
        while not all(s.statistics.intake.received for name, s in sights(pipeline)[0].items() if "lane" in name):
            assert pipeline.sender().send(numbered(50)).ok
    assert ids(recorder.events()) == ids(numbered(50))


@pytest.mark.slow
def test_the_rate_of_a_pipeline_holds_for_all_its_lanes_together(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").lanes(2).chain().middleware(RateLimiter(0.001, burst=100)).emitter(recorder)
    with hub.start() as pipeline:
        for number in range(10):
            assert pipeline.sender().send(numbered(40, f"s{number}")).ok
        report = pipeline.stop()
    assert report.emitters["recorder"].delivered == 100


@pytest.mark.slow
def test_an_aggregate_of_events_from_several_lanes_is_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").lanes(2).chain().middleware(Aggregator(40, within=30, key=is_user)).emitter(recorder)
    with hub.start() as pipeline:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            sending = [threads.submit(pipeline.sender().send, numbered(5, f"s{number}")) for number in range(8)]
            receipts = [future.result(30) for future in sending]
        assert all(receipt.ok for receipt in receipts)
    (event,) = recorder.events()
    assert event.metadata["polku.aggregate.count"] == "40"


def test_a_chained_lane_with_a_stage_and_replicas_of_their_own_in_every_order(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")

    def step(name: str) -> Any:
        def add(event: Event) -> None:
            event.metadata["path"] += name + str(os.getpid()) + " "

        return add

    def begin(event: Event) -> None:
        event.metadata["path"] = ""

    hub = Hub(runtime="ray").chain().middleware(begin, isolate=True).middleware(step("a"), replicas=2)
    hub.middleware(step("b")).middleware(step("c"), isolate=True).middleware(step("d"), isolate=True)
    hub.middleware(step("e")).middleware(step("f"), replicas=2)
    with hub.emitter(recorder).start() as pipeline:
        assert pipeline.sender().send(numbered(500)).ok
        seen, _ = sights(pipeline)
    got = recorder.events()
    assert ids(got) == ids(numbered(500))
    path = got[0].metadata["path"].split()
    assert [place[0] for place in path] == list("abcdef")
    pids = {place[0]: int(place[1:]) for place in path}
    assert pids["b"] == pids["e"] == seen["lane"].vitals.pid
    assert len({*pids.values()}) == 5


@pytest.mark.slow
def test_routes_hold_in_every_arrangement(tmp_path: Path) -> None:
    left, right = Recorder(tmp_path / "left", "left"), Recorder(tmp_path / "right", "right")
    router = Router().when(lambda event: event.id.endswith("1"), to="left").default("right")
    hub = Hub(runtime="ray").chain().middleware(router, replicas=2).emitter(left).emitter(right)
    with hub.start() as pipeline:
        assert pipeline.sender().send(numbered(100)).ok
    assert ids(left.events()) == [event_id for event_id in ids(numbered(100)) if event_id.endswith("1")]
    assert len(right.events()) == 90
