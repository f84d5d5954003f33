"""Plugins written with `polku.plugin`, used by real pipelines, in this process and as programs of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polku import ExternalEmitter, ExternalIngestor, Hub, MisconfiguredError, PlanError, SettingError
from polku.plugin import (
    Certificate,
    EmitterPlugin,
    Event,
    Failure,
    IngestorPlugin,
    RecordError,
    RejectedError,
    RetryableError,
    new_event,
)
from polku.v1 import plugin_pb2, plugin_pb2_grpc
from tests.external.program import program
from tests.external.test_ingest import SOURCE, Client, component, eventually, hub
from tests.support.authority import Authority
from tests.support.recorder import Recorder

HERE = Path(__file__).parent


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


def lines(data: bytes) -> list[Event]:
    return [new_event("line", id=line.decode()) for line in data.split()]


async def async_lines(data: bytes, context: Any) -> list[Event]:
    await asyncio.sleep(0)
    return [new_event("line", id=line.decode(), source=context.source) for line in data.split()]


async def yielded_lines(data: bytes) -> Any:
    for event in lines(data):
        yield event


class Lines:
    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.hooks: list[str] = []

    def start(self) -> None:
        self.hooks.append("start")

    def close(self) -> None:
        self.hooks.append("close")

    def health(self) -> str:
        return "fine so far"

    def ingest(self, data: bytes, context: Any) -> list[Event]:
        self.threads.add(threading.current_thread().name)
        return lines(data)


@pytest.mark.parametrize("ingestor", [lines, async_lines, yielded_lines, Lines()])
def test_a_function_or_a_class_is_an_ingestor_plugin(ingestor: Any, recorder: Recorder) -> None:
    with (
        IngestorPlugin(ingestor, sources=SOURCE, name="lines").start() as plugin,
        hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline,
    ):
        assert list(Client(pipeline).send(b"one two").event_ids) == ["one", "two"]
        eventually(lambda: component(pipeline)[0] and "lines 0.0.0" in component(pipeline)[1])
    if isinstance(ingestor, Lines):
        assert ingestor.hooks == ["start", "close"]
        assert all(name.startswith("lines") for name in ingestor.threads), "sync code runs in the plugin's threads"


def test_what_an_ingestor_raises_reaches_the_sender(recorder: Recorder) -> None:
    def picky(data: bytes) -> list[Event | RecordError]:
        if data == b"record":
            raise RecordError("not mine", offset=3)
        if data == b"bug":
            raise KeyError("oh")
        if data == b"nonsense":
            return [42]  # type: ignore[list-item]
        return [new_event("x", id="good"), RecordError("second", offset=7)]

    with (
        IngestorPlugin(picky, sources=SOURCE).start() as plugin,
        hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline,
    ):
        acks = Client(pipeline).stream(b"ok", b"record", b"bug", b"nonsense")
    assert [list(ack.event_ids) for ack in acks] == [["good"], [], [], []]
    texts = [f"{ack.errors[0].code} {ack.errors[0].message}" for ack in acks]
    assert texts[0] == "INVALID_RECORD offset 7: second"
    assert texts[1] == "INVALID_RECORD offset 3: not mine"
    assert "INGESTOR_ERROR" in texts[2]
    assert "KeyError: 'oh'" in texts[2]
    assert "not int" in texts[3]


class Store:
    """Keep ids; refuse what it is told to."""

    name = "store"

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.seen: set[str] = set()
        self.hooks: list[str] = []

    def start(self) -> None:
        self.hooks.append("start")

    def close(self) -> None:
        self.hooks.append("close")

    def emit(self, batch: Any) -> list[Failure]:
        failures = []
        for event in batch:
            first = event.id not in self.seen
            self.seen.add(event.id)
            if event.event_type == "later" and first:
                failures.append(Failure(event.id, "not yet"))
            elif event.event_type == "never":
                failures.append(Failure(event.id, "never", retryable=False))
            else:
                self.ids.append(event.id)
        return failures


def test_an_emitter_class_confirms_by_event_and_is_closed_by_shutdown() -> None:
    store = Store()
    with EmitterPlugin(store).start() as plugin:
        for round_ in range(2):
            external = ExternalEmitter("store", plugin.address)
            with Hub(runtime="inline").emitter(external).start() as pipeline:
                events = [new_event(kind, id=f"{kind}{round_}") for kind in ("a", "later", "never", "b")]
                assert pipeline.sender().send(events).ok
            report = pipeline.stop().emitters["store"]
            assert (report.delivered, report.dead) == (3, 1)
    assert store.ids == ["a0", "b0", "later0", "a1", "b1", "later1"]
    assert store.hooks == ["start", "close"] * 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RejectedError("no"), grpc.StatusCode.INVALID_ARGUMENT),
        (RetryableError("busy"), grpc.StatusCode.ABORTED),
        (MisconfiguredError("key"), grpc.StatusCode.PERMISSION_DENIED),
        (ConnectionError("gone"), grpc.StatusCode.ABORTED),
        (ValueError("bug"), grpc.StatusCode.INTERNAL),
    ],
)
def test_what_an_emitter_raises_becomes_the_status_that_the_router_understands(
    error: Exception, status: grpc.StatusCode
) -> None:
    async def deliver(batch: Any) -> None:
        raise error

    with (
        EmitterPlugin(deliver).start() as plugin,
        grpc.insecure_channel(plugin.address.removeprefix("http://")) as channel,
    ):
        stub = plugin_pb2_grpc.EmitterPluginStub(channel)
        assert stub.Info(Empty()).name == "deliver"
        assert stub.Emit(plugin_pb2.EmitRequest()).success_count == 0
        with pytest.raises(grpc.RpcError) as caught:
            stub.Emit(plugin_pb2.EmitRequest(events=[Event(id="one")]))
    assert caught.value.code() is status
    assert str(error) in (caught.value.details() or "")


@pytest.mark.parametrize(("answer", "healthy", "text"), [(False, False, ""), ("busy", True, "busy"), (None, True, "")])
def test_health_is_what_the_author_says(answer: Any, healthy: bool, text: str) -> None:
    class Sick(Lines):
        def health(self) -> Any:
            return answer

    with (
        IngestorPlugin(Sick(), sources="x", name="sick").start() as plugin,
        grpc.insecure_channel(plugin.address.removeprefix("http://")) as channel,
    ):
        answer = plugin_pb2_grpc.IngestorPluginStub(channel).Health(Empty())
        standard = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert (answer.healthy, answer.message) == (healthy, text)
    assert standard.status == health_pb2.HealthCheckResponse.SERVING


def test_an_encrypted_plugin(tmp_path: Path, recorder: Recorder) -> None:
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", chain, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate = Certificate(chain.read_bytes(), key.read_bytes())
    with IngestorPlugin(lines, sources=SOURCE).start("localhost:0", certificate=certificate) as plugin:
        assert plugin.address.startswith("https://localhost:")
        pipeline = hub(recorder, plugin.address, root_certificates=chain.read_bytes()).start(grpc_addr="127.0.0.1:0")
        with pipeline:
            assert list(Client(pipeline).send(b"one").event_ids) == ["one"]


def test_the_certificates_of_a_plugin_may_be_replaced(tmp_path: Path, recorder: Recorder) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(old.cert.read_bytes())
    plugin = IngestorPlugin(lines, sources=SOURCE).start("localhost:0", certificate=Certificate(*old.issue()))
    with hub(recorder, plugin.address, root_certificates=roots).start(grpc_addr="127.0.0.1:0") as pipeline:
        with plugin:
            assert list(Client(pipeline).send(b"one").event_ids) == ["one"]
        deadline = time.monotonic() + 30
        while "failed to connect" not in str(pipeline.health().components):  # it has tried, and will try again
            assert time.monotonic() < deadline
            time.sleep(0.02)
        roots.write_bytes(new.cert.read_bytes())
        address = plugin.address.removeprefix("https://")
        with IngestorPlugin(lines, sources=SOURCE).start(address, certificate=Certificate(*new.issue())):
            deadline = time.monotonic() + 30
            while True:
                try:
                    assert list(Client(pipeline).send(b"two").event_ids) == ["two"]
                    break
                except grpc.RpcError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)


def test_ten_lines_are_a_program_that_ends_in_good_order(tmp_path: Path, recorder: Recorder) -> None:
    with (
        program(tmp_path / "log", sys.executable, str(HERE / "ten_lines.py"), cwd=HERE.parent.parent) as plugin,
        hub(recorder, plugin.address).start(grpc_addr="127.0.0.1:0") as pipeline,
    ):
        ack = Client(pipeline).send(b"one\n\ntwo")
        assert (len(ack.event_ids), ack.errors[0].message) == (2, "offset 4: empty line")
        process = plugin.process
        assert process is not None
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(120) == 0
        assert "parse: stopping" in plugin.output


def test_what_can_never_work_is_an_error_at_once() -> None:
    wrong: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: IngestorPlugin(lines, sources=""), PlanError, "sources"),
        (lambda: IngestorPlugin(Lines, sources="x"), PlanError, "is a class"),
        (lambda: IngestorPlugin(lambda data: [], sources="x"), PlanError, "has no name"),
        (lambda: EmitterPlugin(object()), PlanError, "is no emitter"),
    ]
    for make, kind, text in wrong:
        with pytest.raises(kind, match=text):
            make()
    with IngestorPlugin(lines, sources="x").start() as plugin, pytest.raises(SettingError, match="in use"):
        IngestorPlugin(lines, sources="x").start(plugin.address.removeprefix("http://"))


def test_an_external_ingestor_is_a_value() -> None:
    assert ExternalIngestor("a", "h:1") == ExternalIngestor(["a"], "h:1")
