"""Clients over gRPC that misbehave, and what they are told when a pipeline is full, stops or cannot open."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import BufferStrategy, Event, Hub, JsonIngestor, Limits, Pipeline, SettingError, new_event
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import Ack, IngestBatch, IngestEvent
from tests.gateway.grpc.conftest import events
from tests.support.recorder import Recorder


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        (Limits(), 1_010),  # a stream too many can come and be told so
        (Limits(streams=1, calls=12), 12),
        (Limits(open_bytes=8 * 1024 * 1024), 204),
        (Limits(streams=5_000), 1_638),
        (Limits(open_bytes=1), 100),
    ],
)
def test_a_connection_may_have_no_more_calls_open_than_there_is_memory_for(limits: Limits, calls: int) -> None:
    assert limits.connection_calls == calls


def test_calls_over_the_limit_of_a_connection_wait_at_the_client(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").limits(Limits(streams=1, calls=12)).ack("delivered").emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        send: Any = stub.SendEvent  # whose futures have a timeout that its annotations lack
        calls = [send.future(IngestEvent(event=Event(id=f"{n}", event_type="test"))) for n in range(40)]
        deadline = time.monotonic() + 30
        while not pipeline.health().processed:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)  # long enough for all of them to come, if they could
        assert pipeline.health().processed <= 12
        recorder.release()
        answers = [call.exception(timeout=60) or call.result() for call in calls]
        # A call that comes before the server has counted one out that the client has seen end is refused, not run.
        refused = [error for error in answers if isinstance(error, grpc.RpcError)]
        assert {error.code() for error in refused} <= {grpc.StatusCode.UNAVAILABLE}
        accepted = {event_id for ack in answers if isinstance(ack, Ack) for event_id in ack.event_ids}
        assert len(accepted) == 40 - len(refused) >= 12
        assert {event.id for event in recorder.wait_for(len(accepted))} == accepted


def test_a_client_that_never_reads_its_acks_is_not_read_from(pipeline: Pipeline, recorder: Recorder) -> None:
    """Flow control stops it after a bounded number of batches; another client is served all the while."""
    written = 0
    stop = threading.Event()

    def endless() -> Iterator[bytes]:
        nonlocal written
        number = 0
        while not stop.is_set():
            ids = [f"{number}-{n}-" + "x" * 900 for n in range(100)]
            yield IngestBatch(events=events(*ids)).SerializeToString()
            number += 1
            written = number

    with grpc.insecure_channel(str(pipeline.address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.stream_stream("/polku.v1.Gateway/StreamEvents", None, None)
        call = method(endless())  # nobody iterates over it
        before = -1
        deadline = time.monotonic() + 30
        while written != before or written == 0:  # until it moves no more
            before = written
            time.sleep(0.5)
            assert time.monotonic() < deadline
        assert written < 1_000
        with grpc.insecure_channel(str(pipeline.address)) as other:
            stub = gateway_pb2_grpc.GatewayStub(other)
            assert stub.SendEvent(IngestEvent(event=Event(id="other")), timeout=30).event_ids == ["other"]
        stop.set()
        call.cancel()


def test_a_client_that_disappears_in_mid_stream_leaves_what_it_sent(pipeline: Pipeline, recorder: Recorder) -> None:
    outgoing: queue.Queue[bytes | None] = queue.Queue()
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        method = channel.stream_stream("/polku.v1.Gateway/StreamEvents", None, Ack.FromString)
        call: Any = method(iter(outgoing.get, None))
        outgoing.put(IngestBatch(events=events("before")).SerializeToString())
        assert list(next(call).event_ids) == ["before"]
        call.cancel()
        outgoing.put(None)
    assert [event.id for event in recorder.wait_for(1)] == ["before"]
    assert pipeline.sender().send(new_event("after", source="test")).ok


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing")
        with pytest.raises(SettingError, match=address):
            hub.start(grpc_addr=address)


def _pause(error: Any) -> tuple[int, float]:
    """Return what an error says of the pause: milliseconds by gRPC's key, and seconds by `RetryInfo`."""
    details = pytest.importorskip("google.rpc.error_details_pb2", reason="googleapis-common-protos is not installed")
    from google.rpc.status_pb2 import Status

    metadata = dict(error.trailing_metadata())
    status = Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = details.RetryInfo()
    (detail,) = status.details
    assert detail.Unpack(info)
    return int(metadata["grpc-retry-pushback-ms"]), info.retry_delay.seconds + info.retry_delay.nanos / 1e9


def test_a_full_buffer_is_resource_exhausted_with_a_hint(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    recorder.hold()
    strategy = BufferStrategy.ring(1, overflow="drop_newest")
    with Hub(runtime="inline").buffer_strategy(strategy).emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        with grpc.insecure_channel(str(pipeline.address)) as channel:
            stub = gateway_pb2_grpc.GatewayStub(channel)
            stub.SendEvent(IngestEvent(event=Event(id="fits")))
            with pytest.raises(grpc.RpcError) as caught:
                stub.SendEvent(IngestEvent(event=Event(id="does not")))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert _pause(caught.value) == (100, 0.1)
        recorder.release()


def test_a_default_ingestor_takes_every_source(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").default_ingestor(JsonIngestor()).emitter(recorder)
    with hub.start() as pipeline:
        assert pipeline.sender().send_raw(b'{"event_type": "x"}', source="anybody").ok
    assert recorder.events()[0].source == "anybody"


def test_draining_refuses_new_events_and_finishes_the_old(pipeline: Pipeline, recorder: Recorder) -> None:
    recorder.hold()
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        stub.SendEvent(IngestEvent(event=Event(id="old")))
        stopping = threading.Thread(target=pipeline.stop, args=(20,))
        stopping.start()
        assert refused_by_and_by(stub) is grpc.StatusCode.UNAVAILABLE
        recorder.release()
        stopping.join()
    assert recorder.events()[0].id == "old"


def refused_by_and_by(stub: Any) -> grpc.StatusCode:
    """Send until the gateway refuses, and return the status of that."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        call = stub.SendEvent.future(IngestEvent(event=Event(event_type="probe")), timeout=30)
        code: grpc.StatusCode = call.code()
        if code is not grpc.StatusCode.OK:
            return code
    raise AssertionError("the gateway went on accepting")
