"""Plugins that register themselves with a gateway."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import Hub, JsonIngestor, Pipeline, PlanError, PluginSlot, Resilience, Retry, new_event
from polku.plugin import EmitterPlugin, Failure, IngestorPlugin, Registration, RetryableError
from polku.v1 import plugin_pb2_grpc
from polku.v1.plugin_pb2 import (
    PLUGIN_TYPE_INGESTOR,
    HeartbeatRequest,
    PluginInfo,
    RegisterRequest,
    RegisterResponse,
    UnregisterRequest,
)
from tests.external.program import program, raw
from tests.external.test_ingest import SOURCE, Client, eventually
from tests.plugin.test_sdk import Store, lines
from tests.support.recorder import Recorder
from tests.support.server import Server

TOKEN = "open-sesame"
HERE = Path(__file__).parent
Open = Callable[[Hub], Pipeline]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def open_gateway(request: pytest.FixtureRequest) -> Iterator[Open]:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    pipelines: list[Pipeline] = []

    def open_gateway(hub: Hub) -> Pipeline:
        hub.allow_plugins(TOKEN, silent_after=1.5, timeout=2.0)
        pipelines.append(hub.start(runtime=request.param, grpc_addr="127.0.0.1:0"))
        return pipelines[-1]

    yield open_gateway
    for pipeline in pipelines:
        pipeline.stop(30)


@pytest.fixture
def gateway(recorder: Recorder) -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").ingestor(JsonIngestor()).emitter(recorder)
    with hub.allow_plugins(TOKEN, silent_after=1.5).start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


@pytest.fixture
def gateway_with_slot() -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").emitter(PluginSlot("store")).allow_plugins(TOKEN)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


def registration(pipeline: Pipeline, token: str = TOKEN) -> Registration:
    return Registration(str(pipeline.address), token=token, heartbeat=0.3)


class Registrant:
    """Register by hand."""

    def __init__(self, pipeline: Pipeline, token: str | None = TOKEN) -> None:
        self.stub = plugin_pb2_grpc.PluginRegistryStub(grpc.insecure_channel(str(pipeline.address)))
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def register(self, name: str, address: str, *sources: str, **fields: Any) -> RegisterResponse:
        info = PluginInfo(name=name, **{"type": PLUGIN_TYPE_INGESTOR, "sources": sources, **fields})
        answer: RegisterResponse = self.stub.Register(
            RegisterRequest(info=info, address=address), metadata=self.metadata, timeout=20
        )
        return answer

    def heartbeat(self, plugin_id: str) -> bool:
        request = HeartbeatRequest(plugin_id=plugin_id)
        return bool(self.stub.Heartbeat(request, metadata=self.metadata, timeout=20).acknowledged)


def codes(client: Client) -> list[str]:
    return [error.code for error in client.stream(b"one")[0].errors]


def test_a_registered_ingestor_serves_at_once_and_leaves_when_it_is_gone(
    open_gateway: Open, recorder: Recorder
) -> None:
    pipeline = open_gateway(Hub().emitter(recorder))
    client = Client(pipeline)
    with IngestorPlugin(lines, sources=SOURCE).start(register=registration(pipeline)):
        eventually(lambda: client.stream(b"one")[0].event_ids)
        name = f"ingestor:{SOURCE}"
        eventually(lambda: "lines 0.0.0" in pipeline.health().components.get(name, (True, ""))[1])
        time.sleep(2)  # longer than it may be silent: heartbeats keep it, or bring it back where they came late
        eventually(lambda: client.stream(b"two")[0].event_ids)
    (error,) = client.stream(b"three")[0].errors
    assert error.code == "UNAVAILABLE"
    assert "plugin 'lines' has unregistered" in error.message
    assert [event.id for event in recorder.wait_for(2)] == ["one", "two"]


def test_a_gateway_that_has_just_started_gives_plugins_the_time_to_register(gateway: Pipeline) -> None:
    client = Client(gateway)
    assert codes(client) == ["UNAVAILABLE"]
    eventually(lambda: codes(client) == ["UNKNOWN_SOURCE"])


def test_a_plugin_that_dies_is_taken_out_and_comes_back(gateway: Pipeline, tmp_path: Path) -> None:
    client = Client(gateway)
    environment = {"POLKU_PLUGIN_GATEWAY": str(gateway.address), "POLKU_PLUGIN_TOKEN": TOKEN}
    with program(
        tmp_path / "log", sys.executable, str(HERE / "ten_lines.py"), cwd=HERE.parent.parent, **environment
    ) as plugin:
        eventually(lambda: client.stream(b"one")[0].event_ids)
        plugin.kill()
        assert codes(client) == ["UNAVAILABLE"]
        eventually(lambda: "no sign of life" in client.stream(b"one")[0].errors[0].message)
        healthy, text = gateway.health().components[f"ingestor:{SOURCE}"]
        assert not healthy
        assert "plugin 'parse' has given no sign of life" in text
        plugin.start()
        eventually(lambda: client.stream(b"two")[0].event_ids)
        assert gateway.health().components[f"ingestor:{SOURCE}"][0]


def test_a_plugin_registers_again_with_a_gateway_that_was_restarted(recorder: Recorder) -> None:
    def start(address: str) -> Pipeline:
        hub = Hub(runtime="inline").emitter(recorder).allow_plugins(TOKEN)
        return hub.start(grpc_addr=address)

    first = start("127.0.0.1:0")
    with IngestorPlugin(lines, sources=SOURCE).start(register=registration(first)):
        eventually(lambda: Client(first).stream(b"one")[0].event_ids)
        first.stop()
        with start(str(first.address)) as second:
            eventually(lambda: Client(second).stream(b"two")[0].event_ids)


def test_a_registered_emitter_takes_the_place_that_was_kept_for_it(open_gateway: Open) -> None:
    slot = Resilience(PluginSlot("store", health_interval=0.2), retry=Retry(first=0.05, limit=0.2))
    pipeline = open_gateway(Hub().emitter(slot))
    sender = pipeline.sender()
    assert sender.send(new_event("a", id="waited")).ok
    eventually(lambda: not pipeline.health().components["emitter:store"][0])
    assert "no plugin is registered for PluginSlot('store')" in pipeline.health().components["emitter:store"][1]
    first, second = Store(), Store()
    with EmitterPlugin(first).start(register=registration(pipeline)):
        eventually(lambda: first.ids == ["waited"])
        eventually(lambda: pipeline.health().components["emitter:store"][0])
    assert sender.send(new_event("a", id="between")).ok
    with EmitterPlugin(second, name="other", emitter_name="store").start(register=registration(pipeline)):
        eventually(lambda: second.ids == ["between"])
        pipeline.stop(30)
    assert second.hooks == ["start", "close"]


class SlowStore(Store):
    """Take so long over each batch that whoever wants to can leave meanwhile."""

    def emit(self, batch: Any) -> list[Failure]:
        failures = super().emit(batch)
        time.sleep(0.5)
        return failures


def test_what_a_plugin_has_when_it_leaves_is_not_given_to_the_next_one_as_well(open_gateway: Open) -> None:
    slot = Resilience(PluginSlot("store", health_interval=0.2), retry=Retry(first=0.05, limit=0.2))
    pipeline = open_gateway(Hub().emitter(slot))
    first, second = SlowStore(), Store()
    with EmitterPlugin(first).start(register=registration(pipeline)):
        assert pipeline.sender().send(new_event("a", id="begun")).ok
        eventually(lambda: first.ids == ["begun"])
    with EmitterPlugin(second, name="other", emitter_name="store").start(register=registration(pipeline)):
        assert pipeline.sender().send(new_event("a", id="after")).ok
        eventually(lambda: "after" in second.ids)
        pipeline.stop(30)
    assert (first.ids, second.ids) == (["begun"], ["after"])


def test_nobody_attaches_a_destination_unasked(gateway: Pipeline) -> None:
    with EmitterPlugin(Store()).start() as plugin:
        info = EmitterPlugin(Store()).info
        answer = Registrant(gateway).register(info.name, plugin.address, type=info.type)
    assert not answer.accepted
    assert "keeps no place for emitter 'store'" in answer.message
    assert "PluginSlot('store')" in answer.message


def test_conflicts_are_refused_with_both_names(gateway: Pipeline, tmp_path: Path) -> None:
    registrant = Registrant(gateway)
    with raw(tmp_path, "ingestor") as plugin:
        taken = registrant.register("my-python-plugin", plugin.address, SOURCE)
        assert taken.accepted
        other = registrant.register("rival", plugin.address, SOURCE)
        assert (other.accepted, other.plugin_id) == (False, "")
        assert (
            f"'my-custom-source' is served by plugin 'my-python-plugin' at {plugin.address.removeprefix('http://')}"
            in other.message
        )
        assert "plugin 'rival' cannot have it as well" in other.message
        builtin = registrant.register("rival", plugin.address, "json")
        assert (
            "source 'json' is served by JsonIngestor of the pipeline; plugin 'rival' cannot have it" in builtin.message
        )
        again = registrant.register("my-python-plugin", plugin.address, SOURCE)
        assert again.accepted
        assert not registrant.heartbeat(taken.plugin_id), "registering again replaces the earlier entry"
        assert registrant.heartbeat(again.plugin_id)
        registrant.stub.Unregister(UnregisterRequest(plugin_id="nobody"), metadata=registrant.metadata)
        registrant.stub.Unregister(UnregisterRequest(plugin_id=again.plugin_id), metadata=registrant.metadata)
        assert not registrant.heartbeat(again.plugin_id)


def test_a_plugin_is_called_back_before_it_is_taken_in(gateway: Pipeline, tmp_path: Path) -> None:
    registrant = Registrant(gateway)
    with raw(tmp_path, "ingestor") as plugin:
        for (name, address, source), text in {
            ("my-python-plugin", "127.0.0.1:1", SOURCE): "127.0.0.1:1 does not answer as the IngestorPlugin",
            ("my-python-plugin", "nonsense", SOURCE): "has no port",
            ("my-python-plugin", plugin.address, "other"): "does not answer as the IngestorPlugin",
            ("somebody", plugin.address, SOURCE): "does not answer as the IngestorPlugin 'somebody'",
            ("", plugin.address, SOURCE): "info.name is empty",
            ("my-python-plugin", plugin.address, ""): "info.sources",
        }.items():
            answer = registrant.register(name, address, source)
            assert not answer.accepted
            assert text in answer.message
        answer = registrant.register("x", plugin.address, "y", type=0)
        assert "info.type=0" in answer.message


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_the_token_nothing_can_be_done(gateway: Pipeline, token: str | None) -> None:
    registrant = Registrant(gateway, token)
    for call in (
        lambda: registrant.register("x", "127.0.0.1:1", "y"),
        lambda: registrant.heartbeat("x"),
        lambda: registrant.stub.Unregister(UnregisterRequest(), metadata=registrant.metadata),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_it_is_off_unless_allowed(recorder: Recorder) -> None:
    with (
        Hub(runtime="inline").emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Registrant(pipeline).register("x", "127.0.0.1:1", "y")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_what_can_never_work_is_an_error_when_it_is_written() -> None:
    for make, text in (
        (lambda: Hub().allow_plugins(""), "token"),
        (lambda: Hub().allow_plugins("x", silent_after=0), "silent_after"),
        (lambda: PluginSlot(""), "name"),
        (lambda: Registration("nowhere"), "no port"),
        (lambda: Registration("a:1", heartbeat=0), "heartbeat"),
    ):
        with pytest.raises(PlanError, match=text):
            make()


def test_the_environment_opens_the_registry_of_polku_serve(tmp_path: Path) -> None:
    settings = {"POLKU_RUNTIME": "inline", "POLKU_GRPC_ADDR": "127.0.0.1:0", "POLKU_PLUGIN_TOKEN": TOKEN}
    server = Server(tmp_path / "server", "serve", **settings)
    try:
        register = Registration(server.address, token=TOKEN, heartbeat=0.3)
        with IngestorPlugin(lines, sources=SOURCE).start(register=register):
            client = Client(server)  # type: ignore[arg-type]
            eventually(lambda: client.stream(b"one")[0].event_ids)
            server.wait_for(server.out, '"id":"one"')
    finally:
        assert server.stop() == 0


def test_events_that_a_plugin_had_in_hand_when_it_was_taken_out_go_to_the_next(gateway_with_slot: Pipeline) -> None:
    released = threading.Event()
    first, second = Store(), Store()

    class Stuck(Store):
        def emit(self, batch: Any) -> list[Failure]:
            first.ids.extend(event.id for event in batch)
            released.wait(30)
            raise RetryableError("too late")

    registrant = Registrant(gateway_with_slot)
    stuck, info = EmitterPlugin(Stuck()), EmitterPlugin(Stuck()).info
    try:
        with stuck.start() as plugin:
            taken = registrant.register(info.name, plugin.address, type=info.type)
            assert gateway_with_slot.sender().send(new_event("a", id="in-hand")).ok
            eventually(lambda: first.ids == ["in-hand"])
            request = UnregisterRequest(plugin_id=taken.plugin_id)
            registrant.stub.Unregister(request, metadata=registrant.metadata)
            with EmitterPlugin(second).start(register=registration(gateway_with_slot)):
                eventually(lambda: second.ids == ["in-hand"])
                released.set()
    finally:
        released.set()
