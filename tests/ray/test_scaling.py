"""Lanes and replicas come and go by need on Ray while clients send: nothing is lost, doubled, or refused."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
import time
from pathlib import Path

import grpc
import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from polku import Event, Hub, Limits, Pipeline, Scaling
from polku.monitoring.statistics import ScaleStatistics
from polku.testing import Oracle
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.monitoring.eventful import values
from tests.ray.test_lanes import until
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")
QUICK = Scaling(oldest_seconds=2.0, busy=0.5, idle=0.45, up_seconds=0.5, down_seconds=1.0, pause_seconds=1.0)


async def model(event: Event) -> None:
    await asyncio.sleep(0.02)


def busy(event: Event) -> None:
    time.sleep(0.004)


class Load:
    """Clients with a connection and a source each, that send one event after the other until the end of the block.

    With `patient` an event whose connection breaks is sent again; `pause` is how long each waits between two, in
    seconds.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        oracle: Oracle,
        name: str,
        clients: int,
        *,
        patient: bool = False,
        pause: float = 0.0,
    ) -> None:
        self.errors: list[str] = []
        self.acked = 0
        self._address, self._oracle = str(pipeline.address), oracle
        self._patient, self._pause = patient, pause
        self._lock = threading.Lock()
        self._end = threading.Event()
        names = [f"{name}-{number}" for number in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in names]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, source: str) -> None:
        try:
            with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                while not self._end.is_set():
                    with self._lock:
                        [event] = self._oracle.events(source, 1)
                    self._send(GatewayStub(channel), event)
                    with self._lock:
                        self._oracle.acknowledged([event.id])
                        self.acked += 1
                    time.sleep(self._pause)
        except BaseException as error:
            self.errors.append(repr(error))

    def _send(self, stub: GatewayStub, event: Event) -> None:
        while True:
            try:
                answer = stub.SendEvent(IngestEvent(event=event), timeout=60)
            except grpc.RpcError:
                if not self._patient:
                    raise
            else:
                assert list(answer.event_ids) == [event.id], answer
                return

    def until(self, condition: object, go_on: int = 0) -> None:
        """Return when a condition holds, and that many events more were acknowledged then."""
        assert callable(condition)
        until(lambda: self.errors or condition())
        wanted = self.acked + go_on
        until(lambda: self.errors or self.acked >= wanted)
        assert not self.errors


def scale(pipeline: Pipeline) -> ScaleStatistics:
    """Return the one number that changes by need, once it was looked at."""
    until(lambda: pipeline.statistics().scales)
    [found] = pipeline.statistics().scales
    return found


def test_replicas_come_and_go_by_need(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder, oracle = Recorder(tmp_path / "out"), Oracle(["out"])
    hub = Hub(runtime="ray").scaling(QUICK).middleware(model, name="model", replicas=(1, 3))
    caplog.set_level(logging.INFO, "polku")
    with hub.emitter(recorder, name="out").start(grpc_addr="127.0.0.1:0") as pipeline:
        with Load(pipeline, oracle, "c", 6) as load:
            load.until(lambda: scale(pipeline).number >= 2, go_on=30)
        until(lambda: scale(pipeline).number == 1)
        found = scale(pipeline)
        assert (found.of, found.wanted, found.least, found.most, found.fault) == ("stage-1", 1, 1, 3, "")
        assert found.ups >= 1
        assert found.downs >= 1
        assert list(pipeline.statistics().lanes[0].stages) == ["stage-1/replica-1"]
        metrics = values(pipeline.statistics())
        assert {labels[-1]: value for labels, value in metrics["polku_replicas"].items()} == {
            "now": 1.0, "wanted": 1.0, "min": 1.0, "max": 3.0
        }  # fmt: skip
        assert metrics["polku_lanes"] == {("polku", "now"): 1.0}
        assert metrics["polku_scalings_total"]["stage-1", "polku", "up"] == found.ups
        assert pipeline.health().healthy
        report = pipeline.stop()
    assert not report.loss
    oracle.delivered("out", recorder.events())
    oracle.verdict().check(duplicates=False)
    assert re.search(r"1 → [23] replicas of stage-1 \(model\): (oldest event|utilization) ", caplog.text)
    assert "2 → 1 replicas of stage-1 (model): utilization " in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("chained", [False, True])
def test_lanes_come_and_go_by_need_and_clients_notice_nothing(chained: bool, tmp_path: Path) -> None:
    recorder, oracle = Recorder(tmp_path / "out"), Oracle(["out"])
    hub = Hub(runtime="ray").scaling(QUICK).lanes(max=3).limits(Limits(connection_age_seconds=2)).middleware(busy)
    hub = hub.chain() if chained else hub
    with hub.emitter(recorder, name="out").start(grpc_addr="127.0.0.1:0") as pipeline:
        with Load(pipeline, oracle, "c", 12) as load:
            load.until(lambda: scale(pipeline).number == 3, go_on=100)
        with Load(pipeline, oracle, "d", 1) as load:
            load.until(lambda: scale(pipeline).number < 3, go_on=30)
        until(lambda: [lane.name for lane in pipeline.statistics().lanes] == ["lane-1"])
        report = pipeline.stop()
    assert not report.loss
    oracle.delivered("out", recorder.events())
    oracle.verdict().check(duplicates=False, order=False)  # a client that connects again may be in another lane


@pytest.mark.slow
def test_a_lane_that_is_killed_while_others_come_loses_nothing(tmp_path: Path) -> None:
    recorder, oracle = Recorder(tmp_path / "out"), Oracle(["out"])
    hub = Hub(runtime="ray").scaling(QUICK).lanes(max=4).limits(Limits(connection_age_seconds=2)).middleware(busy)
    with hub.emitter(recorder, name="out").start(grpc_addr="127.0.0.1:0") as pipeline:
        with Load(pipeline, oracle, "c", 12, patient=True) as load:
            for wanted in (2, 3):
                load.until(lambda wanted=wanted: scale(pipeline).wanted >= wanted)
                for part in ("lane-1/ingest", "lane-1/stage-1"):
                    os.kill(pipeline.statistics().processes[part].pid, signal.SIGKILL)
                load.until(lambda wanted=wanted: scale(pipeline).number >= wanted, go_on=50)
        until(lambda: scale(pipeline).number == 1)
        report = pipeline.stop()
    assert not report.loss
    oracle.delivered("out", recorder.events())
    oracle.verdict().check(order=False)


@pytest.mark.slow
def test_where_there_is_no_room_the_pipeline_goes_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, oracle = Recorder(tmp_path / "out"), Oracle(["out"])
    rules = Scaling(oldest_seconds=2.0, busy=0.5, idle=0.2, up_seconds=1.0, pause_seconds=3.0, start_seconds=15.0)
    cores = ray.cluster_resources()["CPU"]
    hub = Hub(runtime="ray").scaling(rules).middleware(model, name="model", replicas=(1, 3), num_cpus=cores)
    with hub.emitter(recorder, name="out").start(grpc_addr="127.0.0.1:0") as pipeline:
        with Load(pipeline, oracle, "c", 6) as load:
            load.until(lambda: {"CPU": cores} in demands())
            load.until(lambda: scale(pipeline).failures == 1, go_on=30)
            found, health = scale(pipeline), pipeline.health()
            assert (found.number, found.wanted) == (1, 2)
            assert "1 → 2 replicas of stage-1 (model): " in found.fault
            assert "no node has room for it: it did not start within 15 s" in found.fault
            assert health.ready
            assert health.components["scaling"] == (False, f"{found.fault}; it runs on as it was")
            [line] = [line for line in caplog.messages if "not done" in line]
            assert "no node has room" in line
            load.until(lambda: {"CPU": cores} in demands())  # it tries again, and gives way
            asyncio.run(pipeline.update(hub.limits(Limits(batch_events=5_000)), timeout=30))
            load.until(lambda: {"CPU": cores} not in demands(), go_on=30)
            assert scale(pipeline).failures == 1
        until(lambda: pipeline.health().healthy)
        until(lambda: {"CPU": cores} not in demands())
        report = pipeline.stop()
    assert not report.loss
    oracle.delivered("out", recorder.events())
    oracle.verdict().check(duplicates=False)


def demands() -> list[dict[str, float]]:
    """Return what Ray's autoscaler is asked for by actors that find no room."""
    asked = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands.ray_task_actor_demand
    return [bundle.bundle for demand in asked for bundle in demand.bundles_by_count]
