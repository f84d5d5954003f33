"""Actors are killed under load: what was acknowledged arrives, and order holds."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import Event, Hub, Pipeline, new_event
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch
from tests.gateway.http_client import post
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


class Client(threading.Thread):
    """Stream batches of 50 until told to stop; reconnect, and send again what was not acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.acked: list[str] = []
        self.reconnects = -1
        self.stop = threading.Event()

    def run(self) -> None:
        next_batch = 0
        while not self.stop.is_set():
            self.reconnects += 1
            try:
                next_batch = self._stream(next_batch)
            except (grpc.RpcError, grpc.FutureTimeoutError):
                next_batch = len(self.acked) // 50
                time.sleep(0.1)

    def _stream(self, first: int) -> int:
        with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            grpc.channel_ready_future(channel).result(30)
            number = first
            places = threading.Semaphore(16)

            def messages() -> Any:
                nonlocal number
                while not self.stop.is_set():
                    places.acquire()
                    ids = [f"{n:08d}" for n in range(number * 50, number * 50 + 50)]
                    yield IngestBatch(
                        source="c", events=EventPayload(events=[Event(id=i, event_type="t") for i in ids])
                    )
                    number += 1

            for ack in gateway_pb2_grpc.GatewayStub(channel).StreamEvents(messages()):
                assert not ack.errors, ack.errors
                self.acked += ack.event_ids
                places.release()
            return number

    def wait_for(self, count: int, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while len(self.acked) < count:
            assert time.monotonic() < deadline, f"{len(self.acked)} of {count} acknowledged"
            assert self.is_alive()
            time.sleep(0.01)


def sights(pipeline: Pipeline) -> tuple[dict[str, Any], dict[str, int]]:
    import ray

    supervisor: Any = pipeline._runtime.supervisor  # type: ignore[attr-defined]
    seen, restarts = ray.get(supervisor.sights.remote())
    return seen, restarts


def wait_for_restart(pipeline: Pipeline, victim: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while sights(pipeline)[1].get(victim) != 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check(acked: list[str], got: list[Event], *, may_repeat: bool) -> None:
    ids = [event.id for event in got]
    assert len(acked) > 1_000
    assert set(acked) <= set(ids), f"{len(set(acked) - set(ids))} acknowledged events are lost"
    if not may_repeat:
        assert len(ids) == len(set(ids))
    firsts = list(dict.fromkeys(ids))
    assert firsts == sorted(firsts)
    assert all(event.metadata["processed"] == "true" for event in got)


@pytest.mark.parametrize("victim", ["stage-1", pytest.param("emitter:recorder", marks=pytest.mark.slow), "ingest"])
def test_a_killed_actor_comes_back_and_nothing_acknowledged_is_lost(victim: str, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    with Hub(runtime="ray").middleware(mark).emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(str(pipeline.address))
        client.start()
        client.wait_for(2_000)
        seen, _ = sights(pipeline)
        os.kill(seen[victim].vitals.pid, signal.SIGKILL)
        killed_at = len(client.acked)
        client.wait_for(killed_at + 5_000)
        client.stop.set()
        client.join(60)
        wait_for_restart(pipeline, victim)
        report = pipeline.stop(30)
    assert report.complete
    assert report.emitters["recorder"].left == 0
    # The stage's batches come a second time under the same identity, and the buffer knows them. A client whose
    # gateway died, and an outlet whose emitter died, must send again what the other side may have had.
    check(client.acked, recorder.events(), may_repeat=victim != "stage-1")


@pytest.mark.slow
def test_a_killed_ingest_opens_its_http_door_again(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    with Hub(runtime="ray").emitter(recorder).start(http_addr="127.0.0.1:0", http_token="s3cret") as pipeline:
        address = str(pipeline.http_address)
        token = ("-H", "Authorization: Bearer s3cret")
        assert post(address, b'{"id": "before"}', "application/json", *token).ids == ["before"]
        os.kill(sights(pipeline)[0]["ingest"].vitals.pid, signal.SIGKILL)
        wait_for_restart(pipeline, "ingest")
        reconnecting = ("--retry", "50", "--retry-delay", "1", "--retry-connrefused")
        assert post(address, b'{"id": "x"}', "application/json", *reconnecting).status == 401
        assert post(address, b'{"id": "after"}', "application/json", *token).ids == ["after"]
    assert [event.id for event in recorder.events()] == ["before", "after"]


def test_hub_and_ingest_killed_together_come_back_with_the_door_open(tmp_path: Path) -> None:
    import ray

    recorder = Recorder(tmp_path / "out")
    with Hub(runtime="ray").middleware(mark).emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(str(pipeline.address))
        client.start()
        client.wait_for(2_000)
        runtime: Any = pipeline._runtime
        for handle in (runtime.supervisor, runtime.parts.lanes[0].ingest):
            ray.kill(handle, no_restart=False)
        client.wait_for(len(client.acked) + 2_000)
        client.stop.set()
        client.join(60)
        assert pipeline.stop(30).complete
    check(client.acked, recorder.events(), may_repeat=True)


def test_what_a_buffer_in_memory_held_when_it_died_is_counted_as_lost(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    recorder.hold()
    with Hub(runtime="ray").emitter(recorder).start() as pipeline:
        assert pipeline.sender().send([new_event("t") for _ in range(500)]).ok
        seen, _ = sights(pipeline)  # the supervisor looks, as it does once a second
        assert seen["buffer"].statistics.outlets["recorder"].lag == 500
        os.kill(seen["buffer"].vitals.pid, signal.SIGKILL)
        wait_for_restart(pipeline, "buffer")
        recorder.release()
        assert pipeline.sender().send(new_event("t")).ok
        report = pipeline.stop(30)
    assert report.complete
    assert report.emitters["recorder"].vanished == 500
    assert report.loss == "acknowledged events are lost: 500 of emitter recorder"
