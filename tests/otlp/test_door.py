"""What the specification of OTLP demands of a server, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from typing import Any

import grpc
import pytest
from backports import zstd
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from polku import BufferStrategy, Code, Event, Hub, Limits, OtlpIngestor, Outcome, Severity
from polku.errors import DrainingError
from polku.otlp import attribute, log_record, resource
from polku.otlp.signals import LOGS, METRICS, SIGNALS, TRACES, Signal
from tests.otlp.requests import Door, door, logs, metrics, one_log, send, spans

WAYS = ("grpc", "http")
ANSWERS: dict[Signal, Any] = {
    LOGS: ExportLogsServiceResponse,
    TRACES: ExportTraceServiceResponse,
    METRICS: ExportMetricsServiceResponse,
}
REQUESTS: dict[Signal, Message] = {LOGS: logs(["a", "b"]), TRACES: spans(["a", "!b"]), METRICS: metrics(["a", "b"])}


@pytest.fixture(scope="module", params=["native", "grpcio"])
def place(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLKU_DOOR", request.param)
        with door() as opened:
            yield opened


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("signal", SIGNALS, ids=[signal.name for signal in SIGNALS])
def test_what_is_taken_is_answered_with_an_empty_message(place: Door, way: str, signal: Signal) -> None:
    place.events.clear()
    answer = send(place, way, signal, REQUESTS[signal].SerializeToString())
    assert (answer.status, answer.body) == (200 if way == "http" else 0, b"")
    assert not ANSWERS[signal].FromString(answer.body).HasField("partial_success")
    assert [event.event_type for event in place.events] == 2 * [signal.event_type]
    assert {event.source for event in place.events} == {"shop"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("signal", SIGNALS, ids=[signal.name for signal in SIGNALS])
@pytest.mark.parametrize("body", [b"", b"\x0a\x00", b"\x0a\x02\x12\x00"], ids=["nothing", "resource", "scope"])
def test_an_empty_request_is_taken(place: Door, way: str, signal: Signal, body: bytes) -> None:
    place.events.clear()
    answer = send(place, way, signal, body)
    assert (answer.status, answer.body) == (200 if way == "http" else 0, b"")
    assert place.events == []


@pytest.mark.parametrize("way", WAYS)
def test_a_record_is_an_event(place: Door, way: str) -> None:
    place.events.clear()
    send(place, way, LOGS, logs(["hello"], color="red").SerializeToString())
    send(place, way, TRACES, spans(["ok", "!failed"]).SerializeToString())
    log, ok, failed = place.events
    assert (log.severity, log.timestamp_unix_ns) == (Severity.SEVERITY_INFO, 1_700_000_000_000_000_000)
    parent = "00-000102030405060708090a0b0c0d0e0f-1011121314151617-01"
    assert dict(log.metadata) == {"color": "red", "traceparent": parent}
    assert len(log.id) == 26
    assert log_record(log).body.string_value == "hello"
    assert (attribute(log, "color"), attribute(log, "service.name"), attribute(log, "none")) == ("red", "shop", None)
    assert resource(log).attributes[0].value.string_value == "shop"
    assert ok.id == "000102030405060708090a0b0c0d0e0f-0000000000000001"
    assert (ok.outcome, ok.severity) == (Outcome.OUTCOME_SUCCESS, Severity.SEVERITY_INFO)
    assert (failed.outcome, failed.severity) == (Outcome.OUTCOME_FAILURE, Severity.SEVERITY_ERROR)
    assert ok.metadata["tracestate"] == "a=b"


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_read_must_not_be_sent_again(place: Door, way: str) -> None:
    answer = send(place, way, LOGS, b"\xff\xff")
    assert answer.status == (400 if way == "http" else grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert "Retry-After" not in answer.headers
    assert "grpc-retry-pushback-ms" not in answer.headers
    if way == "http":
        assert answer.headers["Content-Type"] == "application/x-protobuf"
        status = status_pb2.Status.FromString(answer.body)
        assert status.code == 3
        assert "MALFORMED" in status.message


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_bodies_may_be_compressed(place: Door, pack: Any) -> None:
    place.events.clear()
    encoding = "gzip" if pack is gzip.compress else "zstd"
    body = logs(["x" * 1000] * 20).SerializeToString()
    assert place.http(LOGS, pack(body), {"Content-Encoding": encoding}).status == 200
    assert len(place.events) == 20
    assert place.http(LOGS, b"no", {"Content-Encoding": encoding}).status == 400
    assert place.http(LOGS, pack(bytes(5_000_000)), {"Content-Encoding": encoding}).status == 413


def test_calls_may_be_compressed(place: Door) -> None:
    place.events.clear()
    body = logs(["x" * 1000] * 20).SerializeToString()
    assert place.grpc(LOGS, body, compression=grpc.Compression.Gzip).status == 0
    assert len(place.events) == 20


JSON_LOG = {
    "timeUnixNano": "1544712660300000000",
    "observedTimeUnixNano": 1544712660300000000,
    "severityNumber": 10,
    "severityText": "Information",
    "traceId": "5B8EFFF798038103D269B633813FC60C",
    "spanId": "eee19b7ec3c1b174",
    "flags": 1,
    "body": {"stringValue": "Example log record"},
    "laterField": {"of": ["a later version"]},
    "attributes": [
        {"key": "s", "value": {"stringValue": "some string"}},
        {"key": "b", "value": {"boolValue": True}},
        {"key": "i", "value": {"intValue": "10"}},
        {"key": "d", "value": {"doubleValue": 637.704}},
        {"key": "nan", "value": {"doubleValue": "NaN"}},
        {"key": "a", "value": {"arrayValue": {"values": [{"stringValue": "many"}, {"intValue": 5}]}}},
        {"key": "m", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "v"}}]}}},
        {"key": "o", "value": {"bytesValue": "AAEC"}},
    ],
}


def test_json_has_hexadecimal_ids_numbers_as_text_and_fields_of_later_versions(place: Door) -> None:
    place.events.clear()
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [JSON_LOG]}], "resource": {}}]}
    answer = place.http(LOGS, json.dumps(body).encode(), kind="application/json")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"{}", "application/json")
    (event,) = place.events
    record = log_record(event)
    assert record.trace_id.hex() == "5b8efff798038103d269b633813fc60c"
    assert record.time_unix_nano == record.observed_time_unix_nano == 1544712660300000000
    assert (record.severity_number, record.severity_text) == (10, "Information")
    assert event.metadata["traceparent"] == "00-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01"
    texts = {"s": "some string", "b": "true", "i": "10", "d": "637.704", "a": '["many",5]', "m": '{"k":"v"}'}
    assert {name: event.metadata[name] for name in texts} == texts
    assert event.metadata["o"] == "AAEC"
    assert event.source == "unknown_service"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "must be an object"),
        (b'{"resourceLogs": {}}', "must be an array"),
        (b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "!!"}]}]}]}', "must be hexadecimal"),
        (b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "x"}]}]}]}', "must be a whole number"),
        (b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "\\ud800"}}]}]}]}', "JSON|surrog"),
        (
            b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"severityNumber": ""}]}]}]}',
            "must be a whole number",
        ),
    ],
)
def test_json_that_is_wrong_is_refused_by_the_field(place: Door, body: bytes, reason: str) -> None:
    answer = place.http(LOGS, body, kind="application/json")
    status = json.loads(answer.body)
    assert (answer.status, status["code"]) == (400, 3)
    assert any(part in status["message"] for part in reason.split("|")), status


def test_other_types_and_methods_are_refused(place: Door) -> None:
    assert place.http(LOGS, b"x", kind="text/plain").status == 415
    answer = place.http(LOGS, b"", method="GET")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_fields_of_later_versions_are_kept(place: Door) -> None:
    place.events.clear()
    unknown = b"\xaa\xfa\x01\x04\x08\x07\x10\x09"  # field 4005
    request = logs(["hello"])
    scope = request.resource_logs[0].scope_logs[0]
    record = scope.log_records[0].SerializeToString() + unknown
    del scope.log_records[:]
    inner = scope.SerializeToString() + unknown + b"\x12" + bytes([len(record)]) + record
    resource_head = request.resource_logs[0].resource.SerializeToString()
    whole = b"\x0a" + bytes([len(resource_head)]) + resource_head + unknown + b"\x12" + bytes([len(inner)]) + inner
    assert place.grpc(LOGS, b"\x0a" + bytes([len(whole) & 127 | 128, len(whole) >> 7]) + whole).status == 0
    (event,) = place.events
    assert event.payload.count(unknown) == 3
    assert event.payload.endswith(record)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_refused_for_good_is_counted_and_becomes_a_dead_letter(way: str) -> None:
    request = logs(["one", "two", "three"])
    request.resource_logs[0].scope_logs[0].log_records[1].time_unix_nano = 2**64 - 1
    with door() as place:
        answer = send(place, way, LOGS, request.SerializeToString())
        assert answer.status == (200 if way == "http" else 0)
        partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
        assert partial.rejected_log_records == 1
        assert "log_records[1]: time=" in partial.error_message
        (letter,) = place.pipeline.dead_letters()
        assert letter.code is Code.INVALID_RECORD
        assert log_record(letter.event).body.string_value == "two"
        assert [log_record(event).body.string_value for event in place.events] == ["one", "three"]


def test_what_middleware_refuses_is_counted_and_is_one_dead_letter() -> None:
    def fail(event: Event) -> Event:
        if log_record(event).body.string_value == "bad":
            raise ValueError("too odd")
        return event

    with door(Hub(runtime="inline").middleware(fail)) as place:
        answer = place.http(LOGS, logs(["good", "bad"]).SerializeToString())
        partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
        assert partial.rejected_log_records == 1
        assert "too odd" in partial.error_message
        assert [letter.code for letter in place.pipeline.dead_letters()] == [Code.MIDDLEWARE_ERROR]


def test_json_says_partial_success_with_a_number_as_text() -> None:
    record = {"timeUnixNano": str(2**64 - 1)}
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record, {}]}]}]}
    with door() as place:
        answer = place.http(LOGS, json.dumps(body).encode(), kind="application/json")
        partial = json.loads(answer.body)["partialSuccess"]
        assert partial["rejectedLogRecords"] == "1"
        assert "later than the year 2262" in partial["errorMessage"]


def test_of_metrics_data_points_are_counted() -> None:
    request = metrics(["good", "bad"], points=3)
    request.resource_metrics[0].scope_metrics[0].metrics[1].gauge.data_points[0].time_unix_nano = 2**64 - 1
    with door() as place:
        answer = place.grpc(METRICS, request.SerializeToString())
        assert ExportMetricsServiceResponse.FromString(answer.body).partial_success.rejected_data_points == 3
        assert len(place.events) == 1


def test_a_span_that_stands_twice_is_refused_once() -> None:
    request = spans(["a", "b"])
    request.resource_spans[0].scope_spans[0].spans[1].span_id = (1).to_bytes(8, "big")
    with door() as place:
        answer = place.grpc(TRACES, request.SerializeToString())
        assert ExportTraceServiceResponse.FromString(answer.body).partial_success.rejected_spans == 1
        assert [letter.code for letter in place.pipeline.dead_letters()] == [Code.DUPLICATE_ID]


def test_a_log_record_may_have_an_id() -> None:
    with door() as place:
        place.grpc(LOGS, logs(["a"], **{"log.record.uid": "mine"}).SerializeToString())
        assert [event.id for event in place.events] == ["mine"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_a_full_buffer_says_when_to_come_again(way: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", server)
    hub = Hub(runtime="inline").limits(Limits(open_bytes=1))

    async def hold(batch: Any) -> None:
        await asyncio.sleep(30)

    hub.emitter(hold, name="hold")
    with door(hub) as place:
        waiting = threading.Thread(target=place.grpc, args=(LOGS, one_log("first")), daemon=True)
        waiting.start()
        wait_for_open(place)
        answer = send(place, way, LOGS, one_log("second"))
        if way == "http":
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        else:
            assert answer.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            assert retry_seconds(answer.headers) == pytest.approx(0.1)
        place.pipeline.stop(0.0)
        waiting.join(30)


def wait_for_open(place: Door) -> None:
    """Return when a request is in flight."""
    deadline = time.monotonic() + 30
    while True:
        ingest = place.pipeline.statistics().lanes[0].ingest
        if ingest is not None and ingest.open_messages:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def retry_seconds(trailers: Any) -> float:
    """Return the delay of the `RetryInfo` in a call's details."""
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    return float(info.retry_delay.ToTimedelta().total_seconds())


@pytest.mark.parametrize("way", WAYS)
def test_a_pipeline_that_stops_says_when_to_come_again(way: str) -> None:
    with door() as place, pytest.MonkeyPatch.context() as patch:

        async def refuse(*_: object, **__: object) -> None:
            raise DrainingError("the pipeline is stopping")

        patch.setattr("polku.gateway.intake.Intake.settle", refuse)
        answer = send(place, way, LOGS, one_log())
    if way == "http":
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    else:
        assert answer.status == grpc.StatusCode.UNAVAILABLE.value[0]
        assert retry_seconds(answer.headers) == 5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_what_fails_here_may_be_sent_again(way: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", server)
    with door() as place, pytest.MonkeyPatch.context() as patch:

        async def fail(*_: object, **__: object) -> None:
            raise RuntimeError("a fault of ours")

        patch.setattr("polku.gateway.intake.Intake.settle", fail)
        answer = send(place, way, LOGS, one_log())
    assert answer.status == (503 if way == "http" else grpc.StatusCode.UNAVAILABLE.value[0])
    assert way == "grpc" or answer.headers["Retry-After"] == "5"


def test_a_slow_body_may_be_sent_again() -> None:
    with door(Hub(runtime="inline").limits(Limits(read_seconds=1))) as place:
        host, _, port = str(place.pipeline.http_address).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            head = b"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nContent-Type: application/x-protobuf"
            sock.sendall(head + b"\r\n\r\nhalf")
            answer = sock.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in answer


def test_a_resource_is_counted_before_it_is_copied() -> None:
    request = logs([""] * 9_000)
    request.resource_logs[0].resource.attributes.add(key="big").value.string_value = "x" * 10_000
    with door() as place:
        answer = place.http(LOGS, request.SerializeToString())
        assert answer.status == 413
        assert "copied into each record" in status_pb2.Status.FromString(answer.body).message
        assert place.events == []


def test_more_records_than_a_message_may_have_are_refused() -> None:
    with door(Hub(runtime="inline").limits(Limits(batch_events=10))) as place:
        answer = place.http(LOGS, logs([""] * 11).SerializeToString())
        assert "11 records, the limit is 10" in status_pb2.Status.FromString(answer.body).message
        assert place.http(LOGS, 11 * b"\x0a\x00").status == 413


def test_a_whole_request_may_be_one_event() -> None:
    body = logs(["a", "b"]).SerializeToString()
    with door(Hub(runtime="inline").ingestor(OtlpIngestor(granularity="request"))) as place:
        assert place.grpc(LOGS, body).status == 0
        assert place.http(LOGS, b"").status == 200
        assert [(event.event_type, event.payload, event.source) for event in place.events] == [
            ("otel.logs", body, "otlp")
        ]


def test_attributes_become_metadata_as_chosen() -> None:
    chosen = OtlpIngestor(attributes=["color"], resource_attributes=["service.name"])
    request = logs(["a"], color="red", size="10")
    cluster = request.resource_logs[0].resource.attributes.add(key="k8s.cluster.name")
    cluster.value.string_value = "north"
    with door(Hub(runtime="inline").ingestor(chosen)) as place:
        place.grpc(LOGS, request.SerializeToString())
        found = dict(place.events[0].metadata)
        del found["traceparent"]
        assert found == {"color": "red", "service.name": "shop", "cluster": "north"}


def test_metadata_that_is_over_the_limits_is_left_in_the_record_alone() -> None:
    limits = Limits(metadata_entries=3, metadata_value_bytes=10, metadata_key_bytes=12)
    attributes = {"long": 11 * "x", 13 * "k": "v", "polku.principal": "me", **{f"a{n}": "v" for n in range(9)}}
    with door(Hub(runtime="inline").limits(limits)) as place:
        assert place.grpc(LOGS, logs(["a"], **attributes).SerializeToString()).body == b""
        (event,) = place.events
        assert set(event.metadata) == {"traceparent", "a0", "a1"}
        assert attribute(event, "long") == 11 * "x"


def test_a_pipeline_may_have_an_ingestor_of_its_own() -> None:
    def read(data: bytes, context: Any) -> list[Event]:
        return [Event(event_type=f"mine.{context.format}", payload=data)]

    with door(Hub(runtime="inline").ingestor(read, source="otlp")) as place:
        assert place.grpc(TRACES, b"anything").status == 0
        assert [(event.event_type, event.payload) for event in place.events] == [("mine.traces", b"anything")]


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_otlp_has_addresses_of_its_own(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", server)
    with door(otlp_addr="127.0.0.1:0", otlp_http_addr="127.0.0.1:0") as place:
        pipeline = place.pipeline
        assert len({pipeline.address, pipeline.http_address, pipeline.otlp_address, pipeline.otlp_http_address}) == 4
        with grpc.insecure_channel(str(pipeline.otlp_address)) as channel:
            call: Any = channel.unary_unary(LOGS.method, bytes, bytes)
            assert call(one_log(), timeout=20) == b""
        assert len(place.events) == 1


def test_a_drop_of_what_is_newest_in_part_is_a_dead_letter() -> None:
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2, overflow="drop_newest"))
    with hub.emitter(lambda batch: None, name="sink").start(http_addr="127.0.0.1:0") as pipeline:
        place = Door(pipeline, [])
        answer = place.http(LOGS, logs(["a", "b", "c"]).SerializeToString())
        if answer.status == 200:
            partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
            assert partial.rejected_log_records == len(pipeline.dead_letters())
        else:
            assert answer.status == 429
