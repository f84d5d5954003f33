"""Plugins with a token each: what they may be, what they may send, and who may call them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from polku import ExternalIngestor, Hub, Pipeline, PlanError, PluginSlot, StdoutEmitter, new_event
from polku.external import registry
from polku.log import RepeatedLog
from polku.plugin import EmitterPlugin, IngestorPlugin, Registration
from polku.security.token_file import file_lines
from polku.v1 import plugin_pb2_grpc
from polku.v1.plugin_pb2 import EmitRequest, UnregisterRequest
from tests.external.test_ingest import Client, eventually
from tests.plugin.test_registration import Registrant
from tests.plugin.test_sdk import Store
from tests.support.recorder import Recorder

RIGHTS = {
    "parser": {"plugins": ["parse"], "sources": ["agent"]},
    "store": {"plugins": ["store"]},
    "client": {"sources": ["agent", "other"]},
}


def parse(data: bytes) -> Iterator[object]:
    """Read words as events; those with a colon say which source they are of."""
    for word in data.decode().split():
        source, _, name = word.rpartition(":")
        yield new_event("word", id=name, source=source)


@pytest.fixture(params=["native", "grpcio"])
def gateway(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Pipeline, Recorder]]:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("".join(file_lines(name, f"token-{name}", rights, None) for name, rights in RIGHTS.items()))
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").emitter(recorder).emitter(PluginSlot("store"), required=False)
    hub.security(tokens=tokens).allow_plugins()
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline, recorder
        pipeline.stop(timeout=0.1)  # the slot may have events that no plugin has taken


def registration(pipeline: Pipeline, name: str) -> Registration:
    return Registration(str(pipeline.address), token=f"token-{name}", heartbeat=0.3)


def test_a_plugin_registers_with_its_own_token_and_makes_events_of_its_sources_alone(
    gateway: tuple[Pipeline, Recorder],
) -> None:
    pipeline, recorder = gateway
    client = Client(pipeline, token="token-client")
    with IngestorPlugin(parse, sources="agent").start(register=registration(pipeline, "parser")):
        eventually(lambda: client.stream(b"one", source="agent")[0].event_ids)
        (ack,) = client.stream(b"two other:three agent:four", source="agent")
    assert list(ack.event_ids) == ["two", "four"]
    (error,) = ack.errors
    assert (error.event_id, error.code) == ("three", "PERMISSION_DENIED")
    assert "principal 'parser': source='other' is not among its sources; allowed are 'agent'" in error.message
    assert [(event.id, event.source) for event in recorder.wait_for(3)] == [
        ("one", "agent"),
        ("two", "agent"),
        ("four", "agent"),
    ]


def test_other_names_and_sources_are_refused_by_name(gateway: tuple[Pipeline, Recorder]) -> None:
    pipeline, _ = gateway
    parser, store = Registrant(pipeline, "token-parser"), Registrant(pipeline, "token-store")
    with IngestorPlugin(parse, sources=["agent", "other"]).start() as plugin:
        assert "plugin 'rival' is not among its plugins" in parser.register("rival", plugin.address, "agent").message
        assert "source='other' is not among" in parser.register("parse", plugin.address, "agent", "other").message
        assert "allowed are none" in Registrant(pipeline, "token-client").register("x", plugin.address, "agent").message
        taken = parser.register("parse", plugin.address, "agent")
        assert taken.accepted, taken.message
        assert "plugin 'parse' is not among its plugins" in store.register("parse", plugin.address, "x").message
        assert not store.heartbeat(taken.plugin_id)
        store.stub.Unregister(UnregisterRequest(plugin_id=taken.plugin_id), metadata=store.metadata)
        assert parser.heartbeat(taken.plugin_id)


def test_what_a_callback_finds_is_not_told_to_who_registers(
    gateway: tuple[Pipeline, Recorder], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REPEATED", RepeatedLog(logging.getLogger("tests")))
    pipeline, _ = gateway
    parser = Registrant(pipeline, "token-parser")
    closed = parser.register("parse", "127.0.0.1:1", "agent").message
    other = parser.register("parse", str(pipeline.address), "agent").message
    assert closed.replace("127.0.0.1:1", "") == other.replace(str(pipeline.address), "")
    assert "the log of the gateway says why" in closed
    assert "is not where the call came from" in parser.register("parse", "192.0.2.1:1", "agent").message
    assert any("plugin 'parse' is refused: called back" in record.getMessage() for record in caplog.records)


def test_a_registered_plugin_answers_its_gateway_and_no_stranger(gateway: tuple[Pipeline, Recorder]) -> None:
    pipeline, _ = gateway
    store = Store()
    with EmitterPlugin(store, name="store").start(register=registration(pipeline, "store")) as plugin:
        assert pipeline.sender().send(new_event("a", id="one", source="agent")).ok
        eventually(lambda: store.ids == ["one"])
        with grpc.insecure_channel(plugin.address.removeprefix("http://")) as channel:
            stub = plugin_pb2_grpc.EmitterPluginStub(channel)
            with pytest.raises(grpc.RpcError, match="this plugin wants its token"):
                stub.Emit(EmitRequest(events=[new_event("a", id="two")]), timeout=30)
            with pytest.raises(grpc.RpcError, match="this plugin wants its token"):
                stub.Shutdown(Empty(), timeout=30)
        assert pipeline.sender().send(new_event("a", id="three", source="agent")).ok
        eventually(lambda: store.ids == ["one", "three"])


def test_a_plugin_with_a_token_answers_who_shows_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    with IngestorPlugin(parse, sources="agent").start(token="open-sesame") as plugin:
        for token, codes in (("open-sesame", []), ("another", ["INGESTOR_ERROR"])):
            ingestor = ExternalIngestor("agent", plugin.address, token=token)
            hub = Hub(runtime="inline").ingestor(ingestor).emitter(recorder)
            with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
                client = Client(pipeline)
                (ack,) = client.stream(b"one", source="agent")
                assert [error.code for error in ack.errors] == codes


def test_without_any_token_nobody_could_register() -> None:
    with pytest.raises(PlanError, match="there is no token that plugins could show"):
        Hub().emitter(StdoutEmitter()).allow_plugins().plan()
