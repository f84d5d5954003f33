"""Pipelines inside a Ray application: senders in tasks and actors, the application's actors as destinations."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polku import ActorEmitter, Batch, Breaker, Event, Hub, Resilience, Retry, Sender, new_event
from polku.errors import NotRunningError, UnavailableError
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_tasks_and_actors_send_through_a_pickled_handle(tmp_path: Path) -> None:
    import ray

    @ray.remote
    def task(sender: Sender, name: str) -> tuple[str, ...]:
        return sender.send(new_event("from.task", id=name, source="app")).event_ids

    class Worker:
        async def work(self, sender: Sender, name: str) -> tuple[str, ...]:
            return (await sender.send_async(new_event("from.actor", id=name, source="app"))).event_ids

    recorder = Recorder(tmp_path / "out")
    with Hub(runtime="ray").emitter(recorder).start() as pipeline:
        sender = pipeline.sender()
        worker: Any = ray.remote(Worker).remote()
        answers = ray.get([task.remote(sender, "t1"), task.remote(sender, "t2"), worker.work.remote(sender, "a1")])
        assert answers == [("t1",), ("t2",), ("a1",)]
    assert {event.id for event in recorder.events()} == {"t1", "t2", "a1"}
    ray.kill(worker)


def test_the_application_s_own_actor_receives_batches_and_its_return_confirms_them() -> None:
    import ray

    class Store:
        def __init__(self) -> None:
            self.ids: list[str] = []
            self.failures = 1

        def take(self, batch: Batch) -> list[str]:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("not yet")
            self.ids += [event.id for event in batch if event.id != "bad"]
            return ["bad"] if any(event.id == "bad" for event in batch) and len(self.ids) < 100 else []

        def all(self) -> list[str]:
            return self.ids

    store: Any = ray.remote(Store).remote()
    with Hub(runtime="ray").emitter(ActorEmitter(store, "take")).start() as pipeline:
        assert pipeline.sender().send([new_event("x", id=name, source="app") for name in "abc"]).ok
        report = pipeline.stop(20)
    assert report.emitters["actor"].delivered == 3
    assert ray.get(store.all.remote()) == ["a", "b", "c"]
    ray.kill(store)


def test_an_event_for_which_an_actor_raises_costs_only_itself() -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Store:
        def __init__(self) -> None:
            self.events: list[str] = []
            self.is_broken = True

        def take(self, batch: Batch) -> None:
            if self.is_broken:
                raise LookupError("no table")
            if any(event.event_type == "odd" for event in batch.events):
                raise ValueError("no such column")
            self.events.extend(event.id for event in batch.events)

        def mend(self) -> None:
            self.is_broken = False

        def all(self) -> list[str]:
            return self.events

    actor: Any = Store
    store: Any = actor.remote()
    emitter = Resilience(ActorEmitter(store, "take"), retry=Retry(limit=0.2), breaker=Breaker(open_for=0.2))
    with Hub(runtime="ray").emitter(emitter).start() as pipeline:
        events = [new_event("odd" if number == 5 else "x", id=str(number), source="app") for number in range(20)]
        assert pipeline.sender().send(events).ok
        wait_for(lambda: sum(lane.emitters["actor"].retries for lane in pipeline.statistics().lanes) > 8)
        assert pipeline.dead_letters() == []  # it raises for all: a destination that is down
        ray.get(store.mend.remote())
        wait_for(lambda: len(pipeline.dead_letters()) == 1)
        (letter,) = pipeline.dead_letters()
        wait_for(lambda: len(ray.get(store.all.remote())) == 19)
    reason = "its code fails for this event: take raised ValueError: no such column"
    assert (letter.event.id, letter.reason) == ("5", reason)
    assert 'raise ValueError("no such column")' in letter.detail
    assert {*ray.get(store.all.remote())} == {str(number) for number in range(20)} - {"5"}
    ray.kill(store)


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_pipeline_starts_inside_somebody_s_actor(tmp_path: Path) -> None:
    import ray

    recorder = Recorder(tmp_path / "out")

    class Host:
        async def run(self) -> int:
            async with Hub(runtime="ray").emitter(recorder).start() as pipeline:
                receipt = await pipeline.sender().send_async([new_event("x", source="app") for _ in range(10)])
                return len(receipt.event_ids)

    host: Any = ray.remote(Host).remote()
    assert ray.get(host.run.remote(), timeout=60) == 10
    assert len(recorder.events()) == 10
    ray.kill(host)


def test_nothing_is_left_behind_after_stop_and_ray_goes_on(tmp_path: Path) -> None:
    import ray
    from ray.util import list_named_actors

    pipeline = Hub(runtime="ray").emitter(Recorder(tmp_path / "out")).start(grpc_addr="127.0.0.1:0")
    supervisor: Any = pipeline._runtime.supervisor  # type: ignore[attr-defined]
    sights, _ = ray.get(supervisor.sights.remote())
    pids = [sight.vitals.pid for sight in sights.values()]
    assert all(map(alive, pids))
    assert pipeline.stop(20).complete
    assert list_named_actors(all_namespaces=True) == []
    wait_until_gone(pids)
    assert ray.is_initialized()


def test_after_its_end_a_pipeline_says_so_where_the_application_keeps_its_ray() -> None:
    pipeline = Hub(runtime="ray").emitter(print).start()
    sender = pipeline.sender()
    report = pipeline.stop()
    for call in (pipeline.sender, pipeline.dead_letters, pipeline.statistics, pipeline.__enter__):
        with pytest.raises(NotRunningError, match="the pipeline has stopped; start another one"):
            call()
    with pytest.raises(
        UnavailableError, match=r"the pipeline does not answer, or has stopped: ActorDiedError: .*task\.$"
    ):
        sender.send(new_event("x"), timeout=30)
    assert not pipeline.health().ready
    assert pipeline.report_nowait().result(30) is report


def test_the_wire_modules_and_the_actors_import_in_a_worker() -> None:
    import ray

    @ray.remote
    def imports() -> str:
        import polku.actors
        from polku.event.v1 import event_pb2
        from polku.v1 import gateway_pb2, gateway_pb2_grpc, plugin_pb2, plugin_pb2_grpc

        assert callable(gateway_pb2_grpc.GatewayStub)
        assert callable(plugin_pb2_grpc.IngestorPluginServicer)
        assert plugin_pb2.PLUGIN_TYPE_INGESTOR == 1
        payload = gateway_pb2.EventPayload(events=[event_pb2.Event(id="x")])
        return str(polku.actors.__name__) + payload.events[0].id

    assert ray.get(imports.remote()) == "polku.actorsx"


def test_a_batch_pickles_as_its_payload() -> None:
    import pickle

    batch = Batch.from_events([Event(id="a"), Event(id="b")], routes=("x",))
    copy = pickle.loads(pickle.dumps(batch))
    assert copy.ids == ["a", "b"]
    assert copy.routes == ("x",)


def wait_until_gone(pids: list[int], timeout: float = 60.0) -> None:
    import time

    deadline = time.monotonic() + timeout
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if alive(pid)]
        time.sleep(0.05)


def test_a_ray_that_is_started_for_a_pipeline_has_its_settings_and_is_its_own_to_stop() -> None:
    program = """
import ray
from polku.actors.attachment import attach
from tests.support.ray_forks import forked_workers
with forked_workers():
    ours = attach().is_ours
print(ours, ray._private.worker._global_node._ray_params._system_config["max_direct_call_object_size"])
"""
    environment = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["True", str(4 * 1024 * 1024)], done.stderr


def test_what_needs_nothing_of_its_own_stays_on_the_node_of_the_program(tmp_path: Path) -> None:
    import ray

    def taken() -> int:
        """Count the actors that are bound to this node: each takes a sliver of it."""
        node = f"node:{ray.util.get_node_ip_address()}"
        free: float = ray.available_resources()[node]
        return round((1 - free) * 10_000)

    def pass_on(event: Event) -> None:
        pass

    def wait_until(expected: int) -> None:
        deadline = time.monotonic() + 30
        while taken() != expected:
            assert time.monotonic() < deadline, f"{taken()} actors are bound to this node, not {expected}"
            time.sleep(0.05)

    wait_until(0)
    hub = Hub(runtime="ray").middleware(pass_on).middleware(pass_on, num_cpus=0.5)
    with hub.emitter(Recorder(tmp_path / "out")).start():
        wait_until(5)  # ingest, stage-1, buffer, emitter and supervisor; stage-2 goes where half a CPU is free
    wait_until(0)
