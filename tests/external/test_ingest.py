"""The ExternalIngestor against real plugin processes, through the gateway's door."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import ExternalIngestor, Hub, Pipeline, PlanError
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import Ack, IngestBatch, IngestEvent, RawPayload
from tests.external.program import Program, raw
from tests.support.recorder import Recorder

SOURCE = "my-custom-source"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Program]:
    with raw(tmp_path, "ingestor") as running:
        yield running


def hub(recorder: Recorder, address: str, **options: Any) -> Hub:
    options = {"timeout": 1.0, "health_interval": 0.2, **options}
    return Hub(runtime="inline").ingestor(ExternalIngestor(SOURCE, address, **options)).emitter(recorder)


class Client:
    def __init__(self, pipeline: Pipeline, token: str = "") -> None:
        self.channel = grpc.insecure_channel(str(pipeline.address))
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.stub = gateway_pb2_grpc.GatewayStub(self.channel)

    def stream(self, *payloads: bytes, source: str = SOURCE) -> list[Ack]:
        raws = [RawPayload(data=data, format="lines") for data in payloads]
        batches = iter([IngestBatch(source=source, raw=r) for r in raws])
        return list(self.stub.StreamEvents(batches, timeout=30, metadata=self.metadata))

    def send(self, data: bytes) -> Ack:
        ack: Ack = self.stub.SendEvent(IngestEvent(source=SOURCE, cluster="prod", raw=data, format="lines"), timeout=30)
        return ack


def eventually(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
    return value


def component(pipeline: Pipeline) -> tuple[bool, str]:
    return pipeline.health().components[f"ingestor:{SOURCE}"]


def test_raw_payloads_become_events_with_the_usual_fill_ins(plugin: Program, recorder: Recorder) -> None:
    with hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline:
        ack = Client(pipeline).send(b"one\ntwo")
        assert list(ack.event_ids) == ["one", "two"]
        one, two = recorder.wait_for(2)
    assert (one.id, two.payload, one.event_type) == ("one", b"two", "my.event.type")
    assert (one.source, one.metadata["cluster"], one.metadata["format"]) == (SOURCE, "prod", "lines")
    assert abs(one.timestamp_unix_ns - time.time_ns()) < 60e9


def test_errors_of_the_plugin_reach_the_sender_with_details_and_offset(plugin: Program, recorder: Recorder) -> None:
    with hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline:
        ack = Client(pipeline).send(b"one\nbad luck\ntwo")
    assert list(ack.event_ids) == ["one", "two"]
    (error,) = ack.errors
    assert (error.code, error.message) == ("INVALID_RECORD", "offset 4: unreadable (luck)")


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"refuse", "INVALID_RECORD", "INVALID_ARGUMENT: not my format"),
        (b"raise", "INGESTOR_ERROR", "no such thing"),
        (b"sleep 3", "UNAVAILABLE", "no answer within 1 s"),
        (b"huge 2000000", "INGESTOR_ERROR", "max_answer_bytes"),
        (b"die", "UNAVAILABLE", "UNAVAILABLE"),
    ],
)
def test_what_goes_wrong_costs_its_own_payload_only(
    plugin: Program, recorder: Recorder, data: bytes, code: str, text: str
) -> None:
    pipeline = hub(recorder, plugin.address, max_answer_bytes=1_000_000).start(grpc_addr="127.0.0.1:0")
    with pipeline:
        client = Client(pipeline)
        (first,) = client.stream(b"one")
        (wrong,) = client.stream(data)
        assert list(first.event_ids) == ["one"]
        assert [error.code for error in wrong.errors] == [code]
        assert text in wrong.errors[0].message
        assert SOURCE in wrong.errors[0].message
        assert not wrong.event_ids
        if data == b"die":
            plugin.kill()
            plugin.start()
        eventually(lambda: client.stream(b"two")[0].event_ids)
        assert [event.id for event in recorder.wait_for(2)] == ["one", "two"]


def test_a_plugin_that_dies_while_nobody_calls_it_is_missed_at_once(plugin: Program, recorder: Recorder) -> None:
    with hub(recorder, plugin.address, health_interval=3_600.0).start() as pipeline:
        eventually(lambda: component(pipeline) == (True, f"my-python-plugin 1.0.0 at {plugin.address}: ok"))
        plugin.kill()
        eventually(lambda: not component(pipeline)[0])
        assert pipeline.statistics().to_json()["lanes"][0]["ingest"]["plugins"][SOURCE]["fault"]
        plugin.start()
        eventually(lambda: component(pipeline)[0])


def test_a_plugin_that_is_down_gives_unavailable_and_comes_back(plugin: Program, recorder: Recorder) -> None:
    with hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(pipeline)
        eventually(lambda: component(pipeline) == (True, f"my-python-plugin 1.0.0 at {plugin.address}: ok"))
        plugin.kill()
        with pytest.raises(grpc.RpcError) as caught:
            client.send(b"lost?")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        (ack,) = client.stream(b"lost?")
        assert ([error.code for error in ack.errors], list(ack.event_ids)) == (["UNAVAILABLE"], [])
        eventually(lambda: not component(pipeline)[0])
        plugin.start()
        eventually(lambda: component(pipeline)[0])
        assert list(client.send(b"back").event_ids) == ["back"]
        assert [event.id for event in recorder.wait_for(1)] == ["back"]


def test_the_plugin_may_be_started_after_the_gateway(plugin: Program, recorder: Recorder) -> None:
    plugin.kill()
    with hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline:
        eventually(lambda: not component(pipeline)[0])
        plugin.start()
        assert eventually(lambda: Client(pipeline).stream(b"one")[0].event_ids) == ["one"]


def test_payloads_of_one_stream_are_in_flight_together_and_keep_their_order(
    plugin: Program, recorder: Recorder
) -> None:
    payloads = [b"sleep 0.5\nslow" if number % 2 else b"fast-%d" % number for number in range(8)]
    payloads = [data.replace(b"slow", b"slow-%d" % number) for number, data in enumerate(payloads)]
    with hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(pipeline)
        client.stream(b"warm")
        expected = [("slow-%d" if number % 2 else "fast-%d") % number for number in range(8)]
        took, sent = [60.0], ["warm"]
        while min(took) > 1.9 and len(took) < 10:  # a busy machine may need more time, and never needs less
            started = time.monotonic()
            acks = client.stream(*payloads)
            took.append(time.monotonic() - started)
            sent += expected
            assert [event_id for ack in acks for event_id in ack.event_ids] == expected
        assert [event.id for event in recorder.wait_for(len(sent))] == sent
    assert min(took) < 1.9, "four sleeps of half a second, one after the other, take two seconds"


def test_events_behind_a_slow_payload_of_the_same_stream_wait_for_it(plugin: Program, recorder: Recorder) -> None:
    with hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline:
        slow = IngestBatch(source=SOURCE, raw=RawPayload(data=b"sleep 0.4\nfirst"))
        quick = IngestBatch(source="other")
        quick.events.events.add(id="second", event_type="x")
        list(Client(pipeline).stub.StreamEvents(iter([slow, quick]), timeout=20))
        assert [event.id for event in recorder.wait_for(2)] == ["first", "second"]


def test_stopping_waits_for_what_the_plugin_is_working_on(plugin: Program, recorder: Recorder) -> None:
    pipeline = hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0")
    client = Client(pipeline)
    client.stream(b"warm")
    acks: list[Ack] = []
    thread = threading.Thread(target=lambda: acks.extend(client.stream(b"sleep 0.5\nlast")))
    thread.start()
    eventually(lambda: pipeline.health().processed == 1)
    time.sleep(0.2)  # the call is in the plugin now; nothing shows it from outside
    pipeline.stop()
    thread.join()
    assert [list(ack.event_ids) for ack in acks] == [["last"]]
    assert [event.id for event in recorder.events()] == ["warm", "last"]


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"TYPE": "2"}, "expected type=PLUGIN_TYPE_INGESTOR, got type=PLUGIN_TYPE_EMITTER"),
        ({"SOURCES": "a,b"}, "expected sources with 'my-custom-source', got ['a', 'b']"),
        ({"TRICK": "garbage"}, "Info: the answer is no PluginInfo"),
        ({"TRICK": "hang"}, "Info: no answer within 1 s"),
    ],
)
def test_a_plugin_that_is_not_the_expected_one_is_not_used(
    tmp_path: Path, recorder: Recorder, environment: dict[str, str], text: str
) -> None:
    with (
        raw(tmp_path, "ingestor", **environment) as plugin,
        hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline,
    ):
        (ack,) = Client(pipeline).stream(b"one")
        assert text in ack.errors[0].message
        assert ack.errors[0].code == ("UNAVAILABLE" if "hang" in environment.values() else "INGESTOR_ERROR")
        healthy, message = eventually(lambda: component(pipeline) if not component(pipeline)[0] else None)
        assert not healthy
        assert text in message
        assert not pipeline.health().healthy
    assert recorder.events() == []


def test_a_sick_plugin_shows_in_health(tmp_path: Path, recorder: Recorder) -> None:
    with (
        raw(tmp_path, "ingestor", SICK="disk full") as plugin,
        hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline,
    ):
        eventually(lambda: not component(pipeline)[0])
        assert component(pipeline)[1].endswith("says that it is not healthy: disk full; unhealthy: disk")


def test_another_program_at_the_same_address_is_checked_again(plugin: Program, recorder: Recorder) -> None:
    with hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline:
        client = Client(pipeline)
        assert client.stream(b"one")[0].event_ids
        plugin.kill()
        plugin.environment["SOURCES"] = "something-else"
        plugin.start()
        codes = {error.code for _ in range(20) for error in client.stream(b"two")[0].errors}
        eventually(lambda: "something-else" in client.stream(b"two")[0].errors[0].message)
        assert codes <= {"UNAVAILABLE", "INGESTOR_ERROR"}
    assert [event.id for event in recorder.events()] == ["one"]


def test_a_unix_socket_and_an_encrypted_port_work(tmp_path: Path, recorder: Recorder) -> None:
    socket = f"unix:{tmp_path}/plugin.sock"
    with (
        raw(tmp_path, "ingestor", ADDRESS=socket),
        hub(recorder, socket).start(grpc_addr="127.0.0.1:0") as pipeline,
    ):
        assert list(Client(pipeline).send(b"one").event_ids) == ["one"]
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = {"CERTIFICATE": str(certificate), "KEY": str(key)}
    with raw(tmp_path, "ingestor", **tls) as plugin:
        address = f"https://localhost:{plugin.port}"
        roots = certificate.read_bytes()
        with hub(recorder, address, root_certificates=roots).start(grpc_addr="127.0.0.1:0") as pipeline:
            assert list(Client(pipeline).send(b"two").event_ids) == ["two"]


def test_what_can_never_work_is_an_error_when_it_is_written() -> None:
    for arguments, text in (
        (("x", "ftp://host:1"), "endpoint='ftp://host:1'"),
        (("x", "host"), "has no port"),
        (("", "host:1"), "name at least one"),
        ((["a", ""], "host:1"), "name at least one"),
    ):
        with pytest.raises(PlanError, match=text):
            ExternalIngestor(*arguments)
    with pytest.raises(PlanError, match="timeout"):
        ExternalIngestor("x", "host:1", timeout=0)


@pytest.mark.usefixtures("ray_session")
def test_on_ray_the_plugin_is_called_and_watched_as_well(plugin: Program, recorder: Recorder) -> None:
    with hub(recorder, plugin.address).start(runtime="ray", grpc_addr="127.0.0.1:0") as pipeline:
        assert list(Client(pipeline).send(b"one").event_ids) == ["one"]
        eventually(lambda: "my-python-plugin" in component(pipeline)[1])
        plugin.kill()
        eventually(lambda: not component(pipeline)[0])
        plugin.start()
        assert eventually(lambda: Client(pipeline).stream(b"two")[0].event_ids) == ["two"]
        recorder.wait_for(2)
