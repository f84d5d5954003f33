"""What the specification of OTLP demands of a server, over gRPC and HTTP: what is taken, and in which form."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import grpc
import pytest
from backports import zstd
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from polku import Event, Hub, Limits, OtlpIngestor, Outcome, Severity
from polku.otlp import attribute, log_record, resource
from polku.otlp.signals import LOGS, METRICS, SIGNALS, TRACES, Signal
from polku.rpc.channel import Channel, Target
from polku.rpc.status import Status
from tests.otlp.requests import WAYS, Door, door, logs, metrics, one_log, send, spans

ANSWERS: dict[Signal, Any] = {
    LOGS: ExportLogsServiceResponse,
    TRACES: ExportTraceServiceResponse,
    METRICS: ExportMetricsServiceResponse,
}

REQUESTS: dict[Signal, Message] = {LOGS: logs(["a", "b"]), TRACES: spans(["a", "!b"]), METRICS: metrics(["a", "b"])}


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


@pytest.mark.parametrize("signal", SIGNALS, ids=[signal.name for signal in SIGNALS])
@pytest.mark.parametrize(
    "body", ["{}", '{"resource%s": []}', '{"resource%s": [{}]}', '{"resource%s": [{"scope%s": []}]}']
)
def test_an_empty_request_in_json_is_taken(place: Door, signal: Signal, body: str) -> None:
    place.events.clear()
    kind = {LOGS: "Logs", TRACES: "Spans", METRICS: "Metrics"}[signal]
    answer = place.http(signal, body.replace("%s", kind).encode(), kind="application/json")
    assert (answer.status, answer.body, place.events) == (200, b"{}", [])


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


def test_calls_may_be_compressed_with_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcio, as a client and as a server, knows none."""
    monkeypatch.setenv("POLKU_DOOR", "native")
    body = logs(["x" * 1000] * 20).SerializeToString()

    async def call(address: str) -> Status:
        channel = Channel(Target(address))
        answer = Ending()
        asked = channel.begin(LOGS.method, answer, [("grpc-encoding", "zstd")])
        await asked.write([zstd.compress(body)], is_packed=True)
        asked.end()
        try:
            return await asyncio.wait_for(answer.status, 30)
        finally:
            await channel.close()

    with door() as place:
        status = asyncio.run(call(str(place.pipeline.address)))
    assert status.code == 0, status
    assert len(place.events) == 20


class Ending:
    """The end of a call."""

    def __init__(self) -> None:
        self.status: asyncio.Future[Status] = asyncio.get_running_loop().create_future()

    def answered(self, message: bytes) -> None:
        assert message == b""

    def ended(self, status: Status) -> None:
        self.status.set_result(status)

    def leaving(self, reason: str) -> None:
        pass


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


def test_a_log_record_may_have_an_id() -> None:
    with door() as place:
        place.grpc(LOGS, logs(["a"], **{"log.record.uid": "mine"}).SerializeToString())
        assert [event.id for event in place.events] == ["mine"]


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
