"""Good and bad messages over gRPC, with real clients, on both servers."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from polku import Event, Pipeline
from polku.v1 import gateway_pb2
from polku.v1.gateway_pb2 import Ack, IngestBatch, IngestEvent, RawPayload
from tests.gateway.grpc.conftest import events
from tests.support.recorder import Recorder


def stream(channel: grpc.Channel, messages: list[bytes]) -> list[Ack]:
    """Send raw bytes down one StreamEvents call and return its Acks."""
    call = channel.stream_stream(
        "/polku.v1.Gateway/StreamEvents", request_serializer=None, response_deserializer=Ack.FromString
    )
    return list(call(iter(messages), timeout=20))


def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


def test_send_event_is_acknowledged_with_true_numbers(stub: Any, recorder: Recorder) -> None:
    ack = stub.SendEvent(IngestEvent(source="agent", cluster="prod", event=Event(id="one", event_type="test")))
    assert list(ack.event_ids) == ["one"]
    assert not ack.errors
    assert ack.buffer_capacity == 5_000
    assert 0 <= ack.buffer_size <= 1
    (event,) = recorder.wait_for(1)
    assert (event.source, event.metadata["cluster"]) == ("agent", "prod")


def test_send_event_takes_a_payload_of_events_as_the_specification_prints_it(stub: Any, recorder: Recorder) -> None:
    request = IngestEvent(source="my-agent", cluster="prod", events=events("evt-001"))
    assert list(stub.SendEvent(request).event_ids) == ["evt-001"]
    assert [event.id for event in recorder.wait_for(1)] == ["evt-001"]


def test_send_event_takes_raw_bytes_for_an_ingestor(stub: Any, recorder: Recorder) -> None:
    ack = stub.SendEvent(IngestEvent(source="json", raw=b'{"id": "j", "event_type": "test"}', format="json"))
    assert list(ack.event_ids) == ["j"]
    recorder.wait_for(1)


def test_many_unary_calls_travel_together(pipeline: Pipeline, stub: Any, recorder: Recorder) -> None:
    recorder.hold()
    calls = [stub.SendEvent.future(IngestEvent(event=Event(id=f"{n}", event_type="test"))) for n in range(200)]
    for call in calls:
        assert call.result(timeout=20).event_ids
    recorder.release()
    assert {event.id for event in recorder.wait_for(200)} == {f"{n}" for n in range(200)}
    assert len(recorder.batches()) < 100


def test_a_stream_is_acknowledged_batch_by_batch_in_order(channel: grpc.Channel, recorder: Recorder) -> None:
    messages = [
        IngestBatch(source="s", events=events(*(f"{batch}-{n}" for n in range(10)))).SerializeToString()
        for batch in range(50)
    ]
    acks = stream(channel, messages)
    assert [list(ack.event_ids) for ack in acks] == [[f"{batch}-{n}" for n in range(10)] for batch in range(50)]
    assert [e.id for e in recorder.wait_for(500)] == [f"{batch}-{n}" for batch in range(50) for n in range(10)]


def test_standard_health_and_our_own_say_that_it_serves(channel: grpc.Channel, stub: Any) -> None:
    standard = health_pb2_grpc.HealthStub(channel)
    for service in ("", "polku.v1.Gateway"):
        answer = standard.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub.SendEvent(IngestEvent(event=Event(event_type="test")))
    health = stub.Health(gateway_pb2.HealthRequest())
    assert health.healthy
    assert set(health.components) == {"ingest", "stage-1", "buffer", "emitter:recorder"}
    assert health.events_processed == 1


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"polku.v1.Gateway", "grpc.health.v1.Health"} <= names


def test_malformed_bytes_are_invalid_for_send_event(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/polku.v1.Gateway/SendEvent", None, Ack.FromString)
    code, details = status_of(lambda: call(b"\xff\xff\xff", timeout=30))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("MALFORMED: IngestEvent")


def test_malformed_bytes_do_not_end_a_stream(channel: grpc.Channel, recorder: Recorder) -> None:
    good = [IngestBatch(events=events(name)).SerializeToString() for name in "ab"]
    acks = stream(channel, [good[0], b"\xff\xff\xff", good[1]])
    assert [[error.code for error in ack.errors] for ack in acks] == [[], ["MALFORMED"], []]
    assert [event.id for event in recorder.wait_for(2)] == ["a", "b"]


def test_one_malformed_event_does_not_take_its_batch_along(channel: grpc.Channel, recorder: Recorder) -> None:
    frames = [Event(id="a").SerializeToString(), b"\x0a\x02\xff\xfe", Event(id="c").SerializeToString()]
    payload = b"".join(b"\x0a" + bytes([len(frame)]) + frame for frame in frames)
    message = b"\x22" + bytes([len(payload)]) + payload
    (ack,) = stream(channel, [message])
    assert list(ack.event_ids) == ["a", "c"]
    (error,) = ack.errors
    assert error.code == "MALFORMED"
    assert "events[1]" in error.message
    assert "UTF-8" in error.message
    recorder.wait_for(2)


def test_an_unset_payload_is_named(channel: grpc.Channel, stub: Any) -> None:
    (ack,) = stream(channel, [IngestBatch(source="s").SerializeToString()])
    assert ack.errors[0].code == "NO_PAYLOAD"
    code, details = status_of(lambda: stub.SendEvent(IngestEvent(source="s")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("NO_PAYLOAD")


def test_an_unknown_source_is_refused_and_the_known_ones_listed(channel: grpc.Channel, stub: Any) -> None:
    raw = IngestBatch(source="nobody", raw=RawPayload(data=b"x")).SerializeToString()
    (ack,) = stream(channel, [raw])
    assert ack.errors[0].code == "UNKNOWN_SOURCE"
    assert "json" in ack.errors[0].message
    code, details = status_of(lambda: stub.SendEvent(IngestEvent(source="nobody", raw=b"x")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "nobody" in details


def test_a_broken_line_is_one_error_and_the_other_lines_pass(channel: grpc.Channel, recorder: Recorder) -> None:
    lines = b'{"id": "1"}\n{"id": "2"}\n{"id": 3\n{"id": "4"}\n{"id": "5"}\n'
    (ack,) = stream(channel, [IngestBatch(source="ndjson", raw=RawPayload(data=lines)).SerializeToString()])
    assert list(ack.event_ids) == ["1", "2", "4", "5"]
    (error,) = ack.errors
    assert error.code == "INVALID_RECORD"
    assert "line 3" in error.message
    recorder.wait_for(4)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (b'{"id": 5}', "id"),
        (b'{"payload": "@@@"}', "payload"),
        (b'{"severity": "hot"}', "severity"),
        (b'{"timestamp_unix_ns": 99999999999999999999}', "timestamp_unix_ns"),
        (b'{"id": ""}', "id"),
        (b'{"id": "\xff"}', "UTF-8"),
        (b'{"a":' * 10_000, "nest"),
    ],
)
def test_a_bad_record_names_its_fault_and_the_pipeline_goes_on(
    channel: grpc.Channel, recorder: Recorder, record: bytes, named: str
) -> None:
    good = IngestBatch(events=events("after")).SerializeToString()
    bad = IngestBatch(source="json", raw=RawPayload(data=record)).SerializeToString()
    acks = stream(channel, [bad, good])
    assert acks[0].errors[0].code == "INVALID_RECORD"
    assert named.lower() in acks[0].errors[0].message.lower()
    assert list(acks[1].event_ids) == ["after"]
    assert [event.id for event in recorder.wait_for(1)] == ["after"]


def test_an_empty_id_is_filled_in_and_a_doubled_one_refused(channel: grpc.Channel, recorder: Recorder) -> None:
    (ack,) = stream(channel, [IngestBatch(events=events("", "twin", "twin")).SerializeToString()])
    assert len(ack.event_ids) == 2
    assert len(ack.event_ids[0]) == 26
    (error,) = ack.errors
    assert (error.event_id, error.code) == ("twin", "DUPLICATE_ID")
    assert "events[2]" in error.message
    assert [event.id for event in recorder.wait_for(2)] == list(ack.event_ids)


def test_a_message_over_the_limit_is_refused_and_the_stream_goes_on(channel: grpc.Channel, stub: Any) -> None:
    large = IngestBatch(events=events("large", payload=b"x" * 300_000)).SerializeToString()
    acks = stream(channel, [large, IngestBatch(events=events("small")).SerializeToString()])
    assert acks[0].errors[0].code == "TOO_LARGE"
    assert "200000" in acks[0].errors[0].message
    assert list(acks[1].event_ids) == ["small"]
    code, _ = status_of(lambda: stub.SendEvent(IngestEvent(event=Event(payload=b"x" * 300_000))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_batch_over_the_event_limit_is_refused(channel: grpc.Channel) -> None:
    too_many = IngestBatch(events=events(*map(str, range(101)))).SerializeToString()
    many_lines = IngestBatch(source="ndjson", raw=RawPayload(data=b"{}\n" * 101)).SerializeToString()
    acks = stream(channel, [too_many, many_lines])
    assert [ack.errors[0].code for ack in acks] == ["TOO_MANY_EVENTS"] * 2
    assert "100" in acks[0].errors[0].message


@pytest.mark.parametrize(
    "metadata", [{str(n): "" for n in range(9)}, {"k" * 33: ""}, {"key": "v" * 20_000}], ids=["entries", "key", "value"]
)
def test_metadata_over_its_limits_costs_only_its_event(
    channel: grpc.Channel, recorder: Recorder, metadata: dict[str, str]
) -> None:
    payload = events("good")
    payload.events.add(id="bad", metadata=metadata)
    (ack,) = stream(channel, [IngestBatch(events=payload).SerializeToString()])
    assert list(ack.event_ids) == ["good"]
    (error,) = ack.errors
    assert (error.event_id, error.code) == ("bad", "METADATA_LIMIT")
    assert "metadata" in error.message
    recorder.wait_for(1)
