"""A connection that has reached its age goes in peace: no call fails, and streams end behind their Acks."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from polku import Hub, Limits, new_event
from polku.event.v1.event_pb2 import Event
from polku.gateway.grpc.protocol import GrpcConnection
from polku.http2 import connection
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub

AGED = Limits(connection_age_seconds=1)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[GrpcConnection]:
    """The connections that were asked to leave."""
    drain, asked = GrpcConnection.drain, list[GrpcConnection]()

    def counted(one: GrpcConnection) -> None:
        asked.append(one)
        drain(one)

    monkeypatch.setattr(GrpcConnection, "drain", counted)
    monkeypatch.setattr(connection, "_LAST_CALLS_SECONDS", 0.2)
    return asked


def test_unary_calls_go_on_over_other_connections_and_none_fails(left: list[GrpcConnection]) -> None:
    ids: list[str] = []
    hub = Hub(runtime="inline").limits(AGED).emitter(lambda batch: ids.extend(event.id for event in batch))
    acked: list[str] = []
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = GatewayStub(channel)
        deadline = time.monotonic() + 60
        for number in itertools.count():
            acked += stub.SendEvent(IngestEvent(event=new_event("t", id=str(number))), timeout=30).event_ids
            if len(left) >= 2:
                break
            assert time.monotonic() < deadline
    assert acked == [str(number) for number in range(len(acked))]
    assert ids == acked


def test_a_stream_ends_behind_the_acks_of_all_that_has_come(left: list[GrpcConnection]) -> None:
    ids: list[str] = []
    hub = Hub(runtime="inline").limits(AGED).emitter(lambda batch: ids.extend(event.id for event in batch))
    batches: queue.SimpleQueue[str] = queue.SimpleQueue()
    sent, acked = list[str](), list[str]()

    def given() -> Iterator[IngestBatch]:
        while event_id := batches.get():
            sent.append(event_id)
            yield IngestBatch(source="s", events=EventPayload(events=[Event(id=event_id, event_type="t")]))

    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        acks: Any = GatewayStub(channel).StreamEvents(given())

        def send_on() -> None:
            for number in itertools.count():
                batches.put(str(number))
                acked.extend(next(acks).event_ids)

        with pytest.raises(grpc.RpcError) as ended:
            send_on()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ended.value.details() == "the connection has reached its age; open another connection"
        batches.put("")
        rest = [event_id for event_id in sent if event_id not in acked]
        assert len(rest) <= 1  # what was on its way when the stream ended
        for event_id in rest:
            event = IngestEvent(event=new_event("t", id=f"again-{event_id}"))
            assert GatewayStub(channel).SendEvent(event, timeout=30).event_ids
    assert left
    assert [event_id for event_id in ids if not event_id.startswith("again-")] == acked
