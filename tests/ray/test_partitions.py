"""A stage that is divided by its key, on Ray: for several lanes, when a partition dies, when their number changes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from polku import Aggregator, BufferStrategy, Deduplicator, Event, Hub, Pipeline
from polku.v1.gateway_pb2 import EventPayload, IngestBatch
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.ray.test_deaths import sights, wait_for_restart
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")


class Client(threading.Thread):
    """Send batches of ten events over a connection of its own, one after the other; `twins` send the same ids."""

    def __init__(self, pipeline: Pipeline, source: str) -> None:
        super().__init__()
        self.acked: list[str] = []
        self.errors: list[str] = []
        self.ends = threading.Event()
        self._address = str(pipeline.address)
        self._source = source
        self.start()

    def run(self) -> None:
        try:
            with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = GatewayStub(channel)
                while not self.ends.is_set():
                    ids = [f"{self._source}-{len(self.acked) + n:06d}" for n in range(10)]
                    events = EventPayload(events=[Event(id=i, event_type="t", source=self._source) for i in ids])
                    (ack,) = stub.StreamEvents(iter([IngestBatch(events=events)]), wait_for_ready=True, timeout=60)
                    assert list(ack.event_ids) == ids, ack
                    self.acked += ids
        except BaseException as error:
            self.errors.append(repr(error))

    def end(self) -> list[str]:
        self.ends.set()
        self.join(60)
        assert not self.errors
        return self.acked


def go_on(clients: list[Client], events: int = 60) -> None:
    """Return when each client has sent that many more events."""
    wanted = [len(client.acked) + events for client in clients]
    until(lambda: all(len(client.acked) >= want for client, want in zip(clients, wanted, strict=True)), clients)


def until(condition: Callable[[], bool], clients: list[Client]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert not [error for client in clients for error in client.errors]
        time.sleep(0.02)


def check(sent: set[str], got: list[Event]) -> None:
    counts = Counter(event.id for event in got)
    assert sent == set(counts), f"{len(sent - set(counts))} are lost"
    assert max(counts.values()) == 1, f"{sum(count > 1 for count in counts.values())} are doubled"


def test_two_lanes_share_what_partitions_have_seen_and_one_that_dies_loses_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="ray").lanes(2).chain().middleware(Deduplicator(), partitions=3).emitter(recorder)
    names = [f"stage-1/partition-{number}" for number in (1, 2, 3)]
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        twins = [Client(pipeline, "twin") for _ in range(8)]  # as many connections are in both lanes
        go_on(twins)
        sent = {event_id for client in twins for event_id in client.end()}
        seen, _ = sights(pipeline)
        assert all(seen[lane].statistics.intake.received for lane in ("lane-1", "lane-2"))
        tree = pipeline.statistics()
        assert list(tree.shared) == names
        assert all(stage.type == "Deduplicator" and stage.received for stage in tree.shared.values())
        assert {part.partitions for part in tree.plan.parts if part.kind == "stage"} == {3}
        clients = [Client(pipeline, f"c{number}") for number in range(4)]
        go_on(clients)
        os.kill(sights(pipeline)[0][names[1]].vitals.pid, signal.SIGKILL)
        go_on(clients)
        sent |= {event_id for client in clients for event_id in client.end()}
        wait_for_restart(pipeline, names[1])
        assert set(names) <= set(pipeline.health().components)
        assert pipeline.stop(30).complete
    check(sent, recorder.events())


@pytest.mark.slow  # without processes it is in tests/actors/test_partitions.py
def test_durable_partitions_know_what_was_seen_after_deaths_and_in_another_number_of_them(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")

    def into(partitions: int, runtime: str = "ray") -> Hub:
        hub = Hub(runtime=runtime).buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db"))
        return hub.middleware(Deduplicator(durable=True), partitions=partitions).emitter(recorder, name="out")

    def kill_partitions(pipeline: Pipeline) -> None:
        for name, sight in sights(pipeline)[0].items():
            if "partition-" in name and sight.vitals is not None:
                os.kill(sight.vitals.pid, signal.SIGKILL)

    def send(pipeline: Pipeline, *ids: str) -> None:
        deadline = time.monotonic() + 60
        events = [Event(id=event_id, event_type="t", source="s") for event_id in ids]
        while not pipeline.sender().send(events).ok:  # partitions are on their way back
            assert time.monotonic() < deadline
            time.sleep(0.2)

    first, second = ([f"{letter}{number}" for number in range(40)] for letter in "ab")
    with into(2).start() as pipeline:
        send(pipeline, *first)
        kill_partitions(pipeline)
        send(pipeline, *first, *second)
        pipeline.update_plan(into(3).plan("ray"), timeout=30)
        kill_partitions(pipeline)  # before any of them has seen an id
        send(pipeline, *first, *second, "c")
        assert pipeline.stop(30).complete
    with into(4, "inline").start() as pipeline:
        send(pipeline, *first, *second, "c", "d")
        assert pipeline.stop(30).complete
    with into(2).start() as pipeline:
        send(pipeline, *first, *second, "c", "d", "e")
        assert pipeline.stop(30).complete
    check({*first, *second, "c", "d", "e"}, recorder.events())


@pytest.mark.slow
def test_the_number_of_partitions_changes_under_load_and_duplicates_stay_known(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")

    def into(partitions: int) -> Hub:
        hub = Hub(runtime="ray").lanes(2).middleware(Deduplicator(), name="seen", partitions=partitions)
        return hub.emitter(recorder)

    with into(2).start(grpc_addr="127.0.0.1:0") as pipeline:
        twins = [Client(pipeline, source) for source in ("a", "b", "c") for _ in range(4)]
        for before, partitions in ((2, 4), (4, 1), (1, 3)):
            go_on(twins)
            changed = pipeline.update_plan(into(partitions).plan("ray"), timeout=30)
            assert f"changed   partitions seen: {partitions} (was {before})" in str(changed.difference)
            until(lambda partitions=partitions: len(pipeline.statistics().shared) == partitions, twins)  # type: ignore[misc]
        go_on(twins)
        sent = {event_id for client in twins for event_id in client.end()}
        again = Client(pipeline, "a")  # what was seen first of all, in two partitions
        go_on([again])
        again.end()
        assert pipeline.stop(30).complete
    check(sent | set(again.acked), recorder.events())


@pytest.mark.slow
def test_an_aggregator_in_partitions_makes_whole_groups_of_what_comes_by_two_lanes(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    step = Aggregator(20, within=0.5, key=lambda event: event.source)
    hub = Hub(runtime="ray").lanes(2).middleware(step, partitions=3).emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        clients = [Client(pipeline, f"s{number % 4}") for number in range(8)]
        go_on(clients, 100)
        sent = Counter(event_id.partition("-")[0] for client in clients for event_id in client.end())
        assert pipeline.stop(30).complete
    got: Counter[str] = Counter()
    for event in recorder.events():
        got[event.source] += int(event.metadata["polku.aggregate.count"])
    assert got == sent
