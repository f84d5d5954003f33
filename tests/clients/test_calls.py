"""The gateway's gRPC servers, called by clients in Go, Node, Java and Rust: grpc-go, grpc-js, grpc-netty and tonic."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polku import Event, Hub, Limits, Pipeline
from polku.gateway.grpc.protocol import GrpcConnection
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch, IngestEvent
from tests.clients import toolchains
from tests.clients.driver import Answer, Driver
from tests.support.recorder import Recorder

SEND, STREAM = "/polku.v1.Gateway/SendEvent", "/polku.v1.Gateway/StreamEvents"
OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED = 0, 1, 3, 4
RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 8, 12, 14
LIMITS = Limits(message_bytes=1_000_000)
LEAST_KEEPALIVE = {"go": 10_000, "java": 10_000}  # milliseconds: these two do not ping more often

Build = Callable[[Path], list[str]]
CLIENTS: dict[str, Build] = {"node": toolchains.node_client}
SLOW: dict[str, Build] = {"go": toolchains.go_client, "java": toolchains.java_client, "rust": toolchains.rust_client}
_BUILT_FOR_LONG = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first build takes minutes


@pytest.fixture(scope="module", params=[*CLIENTS, *(pytest.param(name, marks=_BUILT_FOR_LONG) for name in SLOW)])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def command(language: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return {**CLIENTS, **SLOW}[language](tmp_path_factory.mktemp(language))


@pytest.fixture(params=["native", pytest.param("grpcio", marks=pytest.mark.slow)], autouse=True)
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    return str(request.param)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    with Hub(runtime="inline").limits(LIMITS).emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


@pytest.fixture
def client(command: list[str], pipeline: Pipeline) -> Iterator[Driver]:
    with Driver(command, str(pipeline.address)) as client:
        yield client


def one(name: str) -> bytes:
    return IngestEvent(source="s", event=Event(id=name, event_type="test")).SerializeToString()


def several(*names: str, payload: bytes = b"") -> bytes:
    events = [Event(id=name, event_type="test", payload=payload) for name in names]
    return IngestBatch(source="s", events=EventPayload(events=events)).SerializeToString()


def acked(answer: Answer) -> list[list[str]]:
    assert answer.code == OK, answer
    return [list(Ack.FromString(message).event_ids) for message in answer.messages]


def test_a_unary_call_is_acknowledged(client: Driver, recorder: Recorder) -> None:
    names = [f"{number}" for number in range(5)]
    assert [acked(client.unary(SEND, one(name))) for name in names] == [[[name]] for name in names]
    assert client.many(SEND, [one(f"many-{number}") for number in range(300)], 50) == [OK] * 300
    assert {event.id for event in recorder.wait_for(305)} == {*names, *(f"many-{number}" for number in range(300))}


def test_each_batch_of_a_stream_is_acknowledged_in_order(client: Driver, recorder: Recorder) -> None:
    batches = [[f"{batch}-{number}" for number in range(50)] for batch in range(20)]
    assert acked(client.stream(STREAM, [several(*names) for names in batches])) == batches
    assert [event.id for event in recorder.wait_for(1_000)] == [name for names in batches for name in names]


def test_messages_larger_than_a_frame_and_a_window_pass(client: Driver, recorder: Recorder) -> None:
    batches = [[f"{batch}-{number}" for number in range(3)] for batch in range(4)]
    messages = [several(*names, payload=b"x" * 300_000) for names in batches]
    assert acked(client.stream(STREAM, messages)) == batches
    recorder.wait_for(12)


def test_compressed_messages_are_read_and_their_answers_too(client: Driver, recorder: Recorder) -> None:
    names = [f"event-{number:020}" for number in range(2_000)]
    payload = EventPayload(events=[Event(id=name, event_type="test") for name in names])
    message = IngestEvent(source="s", events=payload).SerializeToString()
    assert acked(client.unary(SEND, message, gzip=True)) == [names]
    batches = [[f"{batch}-{number}" for number in range(500)] for batch in range(3)]
    assert acked(client.stream(STREAM, [several(*names) for names in batches], gzip=True)) == batches
    recorder.wait_for(3_500)


def test_what_cannot_be_taken_is_refused_and_the_connection_goes_on(client: Driver, recorder: Recorder) -> None:
    assert client.unary(SEND, b"\xff\xff\xff").code == INVALID_ARGUMENT
    assert client.unary(SEND, b"").code == INVALID_ARGUMENT
    assert client.unary("/polku.v1.Gateway/Nothing", b"").code == UNIMPLEMENTED
    assert client.stream("/polku.v1.Nobody/StreamEvents", [b"", b""]).code == UNIMPLEMENTED
    answer = client.unary(SEND, several("large", payload=b"x" * 5_000_000))
    assert answer.code == RESOURCE_EXHAUSTED, answer
    assert acked(client.stream(STREAM, [several("one"), b"\xff\xff", several("two")])) == [["one"], [], ["two"]]
    assert acked(client.unary(SEND, one("after"))) == [["after"]]
    assert [event.id for event in recorder.wait_for(3)] == ["one", "two", "after"]


def test_a_deadline_ends_a_call(command: list[str], language: str, recorder: Recorder) -> None:
    over = {DEADLINE_EXCEEDED, *([CANCELLED] if language == "rust" else [])}  # tonic's own clock says CANCELLED
    recorder.hold()
    hub = Hub(runtime="inline").ack("delivered").emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, Driver(command, str(pipeline.address)) as client:
        assert client.unary(SEND, one("late"), seconds=0.3).code in over
        assert client.stream(STREAM, [several("later")], seconds=0.3).code in over
        recorder.release()
        assert acked(client.unary(SEND, one("in time"))) == [["in time"]]


def test_a_stream_that_is_cancelled_costs_the_others_nothing(client: Driver, recorder: Recorder) -> None:
    assert client.cancel(STREAM, several("taken")).code == CANCELLED
    assert acked(client.unary(SEND, one("after"))) == [["after"]]
    assert [event.id for event in recorder.wait_for(2)] == ["taken", "after"]


def test_large_metadata_passes_up_to_the_limit(client: Driver, recorder: Recorder) -> None:
    assert acked(client.unary(SEND, one("large"), metadata=7_000)) == [["large"]]
    assert acked(client.stream(STREAM, [several("larger")], metadata=7_500)) == [["larger"]]
    assert client.unary(SEND, one("too large"), metadata=100_000).code != OK
    assert acked(client.unary(SEND, one("after"))) == [["after"]]
    assert [event.id for event in recorder.wait_for(3)] == ["large", "larger", "after"]


def test_pings_are_answered(command: list[str], language: str, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if language in LEAST_KEEPALIVE:
        pytest.skip("it pings every ten seconds: see the longer twin")
    _ping(command, 400, 1.5, door, monkeypatch)


@pytest.mark.slow
def test_pings_of_clients_that_ping_seldom_are_answered(
    command: list[str], language: str, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ping(command, LEAST_KEEPALIVE.get(language, 1_000), 25, door, monkeypatch)


def _ping(command: list[str], every_ms: int, seconds: float, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pings, connections = [], set[Any]()
    ping = GrpcConnection._ping

    def counted(self: GrpcConnection, flags: int, number: int, payload: memoryview) -> None:
        pings.append(flags)
        connections.add(self)
        ping(self, flags, number, payload)

    monkeypatch.setattr(GrpcConnection, "_ping", counted)
    if door == "grpcio":
        pytest.skip("grpcio closes connections that ping often without a call")
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing")
    with (
        hub.start(grpc_addr="127.0.0.1:0") as pipeline,
        Driver(command, str(pipeline.address), keepalive_ms=every_ms) as client,
    ):
        acked(client.unary(SEND, one("before")))
        time.sleep(seconds)
        assert len(pings) >= 2
        acked(client.unary(SEND, one("after")))
        assert len(connections) == 1


def test_what_was_acknowledged_before_a_stop_is_delivered(
    command: list[str], language: str, door: str, recorder: Recorder
) -> None:
    names = [f"{number}" for number in range(3_000)]
    hub = Hub(runtime="inline").emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, Driver(command, str(pipeline.address)) as client:
        stopping = threading.Thread(target=_stop_after, args=(pipeline, recorder, 300))
        stopping.start()
        codes = client.many(SEND, [one(name) for name in names], 20)
        stopping.join()
    # grpcio ends open calls so; tonic says so of a call that it had not sent yet.
    cancelled = {CANCELLED} if door == "grpcio" or language == "rust" else set[int]()
    assert set(codes) - cancelled == {OK, UNAVAILABLE}
    taken = {name for name, code in zip(names, codes, strict=True) if code == OK}
    assert taken <= {event.id for event in recorder.events()}


def _stop_after(pipeline: Pipeline, recorder: Recorder, count: int) -> None:
    recorder.wait_for(count)
    pipeline.stop()
