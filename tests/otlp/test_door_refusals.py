"""What an OTLP address refuses: for good or for now, in whole or in part."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from polku import BufferStrategy, Code, Event, Hub, IngestContext, Limits
from polku.otlp import log_record
from polku.otlp.signals import LOGS, METRICS, TRACES, Signal
from tests.otlp.requests import WAYS, Door, door, logs, metrics, one_log, retry_seconds, send, spans
from tests.support.recorder import Recorder

ANSWERS: dict[Signal, Any] = {
    LOGS: ExportLogsServiceResponse,
    TRACES: ExportTraceServiceResponse,
    METRICS: ExportMetricsServiceResponse,
}


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

    def is_open() -> bool:
        ingest = place.pipeline.statistics().lanes[0].ingest
        return ingest is not None and bool(ingest.open_messages)

    wait_for(is_open)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_a_pipeline_that_stops_says_when_to_come_again(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLKU_DOOR", server)
    out = Recorder(tmp_path / "out")
    out.hold()
    with Hub(runtime="inline").emitter(out).start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        place = Door(pipeline, [])
        assert place.grpc(LOGS, one_log()).status == 0
        stopping = threading.Thread(target=pipeline.stop, args=(60,))
        stopping.start()
        wait_for(lambda: place.grpc(LOGS, one_log()).status != 0)
        call, request = (send(place, way, LOGS, one_log()) for way in ("grpc", "http"))
        out.release()
        stopping.join(60)
    assert (request.status, request.headers["Retry-After"]) == (503, "5")
    assert call.status == grpc.StatusCode.UNAVAILABLE.value[0]
    assert retry_seconds(call.headers) == 5


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


@pytest.mark.parametrize("way", WAYS)
def test_what_is_dropped_as_the_newest_of_a_request_is_a_dead_letter_and_a_whole_one_may_come_again(
    way: str, tmp_path: Path
) -> None:
    out = Recorder(tmp_path / "out")
    out.hold()
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2, overflow="drop_newest")).emitter(out)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        place = Door(pipeline, [])
        in_part, whole = (send(place, way, LOGS, logs(bodies).SerializeToString()) for bodies in ("abc", "de"))
        (letter,) = pipeline.dead_letters()
        out.release()
        assert [log_record(event).body.string_value for event in out.wait_for(2)] == ["a", "b"]
    partial = ExportLogsServiceResponse.FromString(in_part.body).partial_success
    assert (partial.rejected_log_records, log_record(letter.event).body.string_value) == (1, "c")
    assert "BUFFER_FULL" in partial.error_message
    assert "send again" not in partial.error_message
    assert whole.status == (429 if way == "http" else grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    assert whole.headers["Retry-After"] == "1" if way == "http" else retry_seconds(whole.headers) > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("signal", "count"), [(LOGS, 2), (TRACES, 2), (METRICS, 6)], ids=["logs", "traces", "metrics"])
def test_a_request_for_which_the_ingestor_of_a_pipeline_fails_is_a_dead_letter(
    way: str, signal: Signal, count: int
) -> None:
    def read(data: bytes, context: IngestContext) -> list[Event]:
        raise LookupError("no table")

    request: Any = {LOGS: logs("ab"), TRACES: spans("ab"), METRICS: metrics("ab", points=3)}[signal]
    body = request.SerializeToString()
    with door(Hub(runtime="inline").ingestor(read, source="otlp")) as place:
        answer = send(place, way, signal, body)
        (letter,) = place.pipeline.dead_letters()
    assert answer.status == (200 if way == "http" else 0)
    partial = ANSWERS[signal].FromString(answer.body).partial_success
    assert getattr(partial, signal.rejected) == count
    assert "LookupError: no table" in partial.error_message
    assert (letter.code, letter.event.event_type) == (Code.INGESTOR_ERROR, signal.request_type)
    assert letter.event.payload == body
    assert 'raise LookupError("no table")' in letter.detail
