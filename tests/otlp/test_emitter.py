"""What an OtlpEmitter sends, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from polku import Batch, Event, Failure, MisconfiguredError, OtlpEmitter, PlanError, RetryableError, Severity, new_event
from polku.clock import SystemClock
from polku.emit.parts import LateError
from polku.gateway.retry_hints import retry_metadata
from polku.limits import Limits
from polku.otlp import log_record, set_record
from polku.otlp.client import OtlpClient
from polku.otlp.reading import Choice, transcode
from polku.otlp.signals import LOGS, METRICS, TRACES, Signal
from polku.otlp.wire import Scope, join, split
from polku.v1.gateway_pb2 import EventPayload
from tests.otlp.collector import TAKEN, Collector, Verdict, ids_of
from tests.otlp.requests import NS, SPAN, TRACE, logs, metrics, spans

PROTOCOLS = ("grpc", "http")
ALL = Choice()


@asynccontextmanager
async def sending(protocol: str, **options: Any) -> AsyncIterator[tuple[Collector, OtlpClient]]:
    """Run a server, and an emitter that sends there."""
    collector = Collector(protocol)
    await collector.start()
    client = OtlpEmitter(collector.endpoint, protocol=protocol, **options).build(SystemClock())
    try:
        yield collector, client
    finally:
        await client.close()
        await collector.stop()


def events_of(signal: Signal, body: bytes, choice: Choice = ALL) -> list[Event]:
    """Return the events that a request becomes."""
    parts = transcode(signal, body, Limits(), choice)
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return list(EventPayload.FromString(end.value.payload).events)


def parts_of(body: bytes) -> list[tuple[bytes, bytes, tuple[bytes, ...]]]:
    """Return the pieces of a request: each resource with each of its scopes and records, as bytes."""
    return [(scope.resource, scope.scope, tuple(scope.records)) for scope in split(body, 10_000)]


def test_a_request_that_is_cut_and_joined_is_the_same() -> None:
    body = logs(["a", "b"]).SerializeToString()
    again = b"".join(join(Scope(*scope) for scope in split(body, 10_000)))
    assert LOGS.calls.ExportLogsServiceRequest.FromString(again) == logs(["a", "b"])
    assert len(again) == len(body)
    assert parts_of(again) == parts_of(body)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("choice", [Choice(), Choice(()), Choice(None, ("service.name", "pod"))])
async def test_what_came_in_goes_out_byte_for_byte(protocol: str, choice: Choice) -> None:
    unknown = b"\xaa\xfa\x01\x04\x08\x07\x10\x09"
    first, second = logs(["a", "b"], color="red"), logs(["c"], service="other", n="1")
    first.resource_logs[0].resource.attributes.add(key="pod").value.int_value = 7
    bodies = {
        LOGS: first.SerializeToString() + second.SerializeToString(),
        TRACES: spans(["x", "!y"]).SerializeToString(),
        METRICS: metrics(["m", "n"]).SerializeToString() + metrics(["o"], points=1).SerializeToString(),
    }
    record = logs(["d"]).resource_logs[0].scope_logs[0].log_records[0].SerializeToString() + unknown
    bodies[LOGS] += b"".join(join([Scope(unknown, unknown, [record])]))
    events = [event for signal, body in bodies.items() for event in events_of(signal, body, choice)]
    async with sending(protocol) as (collector, client):
        assert await client.emit(Batch.from_events(events)) == []
    assert {came.signal for came in collector.taken} == set(bodies)
    for came in collector.taken:
        expected: dict[tuple[bytes, bytes], tuple[bytes, ...]] = {}
        for resource, scope, records in parts_of(bodies[came.signal]):
            expected[resource, scope] = expected.get((resource, scope), ()) + records
        assert {(resource, scope): records for resource, scope, records in parts_of(came.body)} == expected


async def test_metadata_that_a_step_has_added_or_changed_becomes_attributes() -> None:
    (event,) = events_of(LOGS, logs(["a"], color="red", size="3").SerializeToString())
    event.metadata["color"] = "blue"
    event.metadata["team"] = "north"
    event.metadata["polku.principal"] = "shop"
    (metric,) = events_of(METRICS, metrics(["m"]).SerializeToString())
    metric.metadata["team"] = "south"
    async with sending("grpc") as (collector, client):
        await client.emit(Batch.from_events([event, metric]))
    log, gauge = (came.records[0] for came in collector.taken)
    assert {one.key: one.value.string_value for one in log.attributes} == {
        "color": "blue",
        "size": "3",
        "team": "north",
    }
    assert [[one.value.string_value for one in point.attributes] for point in gauge.gauge.data_points] == 2 * [
        ["south"]
    ]


async def test_a_record_that_was_put_back_goes_out_changed() -> None:
    (event,) = events_of(LOGS, logs(["secret"]).SerializeToString())
    record = log_record(event)
    record.body.string_value = "***"
    set_record(event, record)
    async with sending("grpc") as (collector, client):
        await client.emit(Batch.from_events([event]))
    assert collector.taken[0].records[0].body.string_value == "***"
    assert collector.taken[0].message.resource_logs[0].schema_url == "https://opentelemetry.io/schemas/1.30.0"


async def test_events_of_other_origin_become_log_records() -> None:
    parent = f"00-{TRACE.hex()}-{SPAN.hex()}-01"
    event = new_event("order.paid", source="shop", id="o-1", timestamp_unix_ns=NS, payload=b'{"amount":7}')
    event.metadata.update({"traceparent": parent, "cluster": "north", "color": "red"})
    event.severity = Severity.SEVERITY_WARNING
    other = new_event("raw", source="shop", payload=b"\xff")
    typed = Event(id="t", event_type="net", source="s")
    typed.network.src_ip = "10.0.0.1"
    async with sending("http") as (collector, client):
        await client.emit(Batch.from_events([event, other, typed]))
    (came,) = collector.taken
    resource = came.message.resource_logs[0]
    assert {one.key: one.value.string_value for one in resource.resource.attributes} == {
        "service.name": "shop",
        "k8s.cluster.name": "north",
    }
    record, raw, net = came.records
    assert (record.event_name, record.body.string_value, record.time_unix_nano) == ("order.paid", '{"amount":7}', NS)
    assert (record.severity_number, record.severity_text) == (13, "WARN")
    assert (record.trace_id, record.span_id, record.flags) == (TRACE, SPAN, 1)
    attributes = {one.key: one.value.string_value for one in record.attributes}
    assert attributes == {"log.record.uid": "o-1", "color": "red"}
    assert raw.body.bytes_value == b"\xff"
    assert net.body.string_value == '{"network":{"src_ip":"10.0.0.1"}}'


async def test_whole_requests_are_passed_on() -> None:
    body = logs(["a", "b"]).SerializeToString()
    events = [new_event("otel.logs", payload=body, id=str(number)) for number in range(2)]
    async with sending("grpc") as (collector, client):
        await client.emit(Batch.from_events(events))
    assert [came.body for came in collector.taken] == [2 * body]


async def test_what_is_no_record_costs_only_itself() -> None:
    events = [
        new_event("otel.log", id="bad", payload=b"\xff\xff"),
        new_event("otel.log", id="bad too", payload=logs(["a"]).SerializeToString()),
        *events_of(LOGS, logs(["good"]).SerializeToString()),
    ]
    async with sending("grpc") as (collector, client):
        failures = await client.emit(Batch.from_events(events))
    assert [(failure.event_id, failure.position, failure.retryable) for failure in failures] == [
        ("bad", 0, False),
        ("bad too", 1, False),
    ]
    assert [record.body.string_value for record in collector.taken[0].records] == ["good"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_requests_are_compressed_carry_headers_and_are_bounded(protocol: str) -> None:
    events = [new_event("big", payload=b"x" * 1000) for _ in range(10)]
    options: dict[str, Any] = {"headers": {"Authorization": "Bearer t"}, "max_events": 4}
    async with sending(protocol, **options) as (collector, client):
        await client.emit(Batch.from_events(events))
    assert [len(came.records) for came in collector.taken] == [4, 4, 2]
    assert all(came.headers["authorization"] == "Bearer t" for came in collector.taken)
    assert protocol == "grpc" or all(came.headers["content-encoding"] == "gzip" for came in collector.taken)
    async with sending(protocol, max_body_bytes=2_500, compression="none") as (collector, client):
        await client.emit(Batch.from_events(events))
    assert [len(came.records) for came in collector.taken] == 5 * [2]
    assert "content-encoding" not in collector.taken[0].headers


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("compression", "least", "most"), [("gzip", 0, 10_000), ("none", 100_000, 200_000)])
async def test_fewer_bytes_travel_where_requests_are_compressed(
    protocol: str, compression: str, least: int, most: int
) -> None:
    sent = 0
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        nonlocal sent
        while data := await reader.read(65_536):
            sent += len(data) * counts
            writer.write(data)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", collector.port)
        writers.extend((writer, back))
        await asyncio.gather(copy(reader, back, counts=True), copy(there, writer, counts=False))

    collector = Collector(protocol)
    await collector.start()
    async with await asyncio.start_server(forward, "127.0.0.1", 0) as between:
        port = between.sockets[0].getsockname()[1]
        config = OtlpEmitter(f"http://127.0.0.1:{port}", protocol=protocol, compression=compression)
        client = config.build(SystemClock())
        assert await client.emit(Batch.from_events([new_event("big", payload=b"x" * 1000) for _ in range(100)])) == []
        await client.close()
        for writer in writers:
            writer.close()
    await collector.stop()
    assert len(collector.taken[0].records) == 100
    assert least < sent < most


async def test_an_endpoint_may_have_a_path() -> None:
    collector = Collector("http")
    await collector.start()
    client = OtlpEmitter(f"{collector.endpoint}/base/", protocol="http").build(SystemClock())
    await client.emit(Batch.from_events([new_event("a")]))
    assert collector.taken[0].headers["path"] == "/base/v1/logs"
    await client.close()
    await collector.stop()


def retry_info(seconds: float) -> tuple[tuple[str, str | bytes], ...]:
    """Return trailers with a `RetryInfo`, and without the pushback that grpcio itself would heed."""
    return tuple(pair for pair in retry_metadata(8, "full", seconds) if pair[0] == "grpc-status-details-bin")


@pytest.mark.parametrize(
    ("protocol", "verdict", "pause"),
    [
        ("grpc", Verdict(14, "away"), None),
        ("grpc", Verdict(1, "cancelled"), None),
        ("grpc", Verdict(4, "late"), None),
        ("grpc", Verdict(10, "aborted"), None),
        ("grpc", Verdict(11, "range"), None),
        ("grpc", Verdict(15, "lost"), None),
        ("grpc", Verdict(8, "full", metadata=retry_info(2.5)), 2.5),
        ("http", Verdict(429, "full", metadata=(("Retry-After", "7"),)), 7.0),
        ("http", Verdict(502), None),
        ("http", Verdict(503, metadata=(("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),)), 0.0),
        ("http", Verdict(504), None),
    ],
)
async def test_what_may_be_sent_again_is(protocol: str, verdict: Verdict, pause: float | None) -> None:
    async with sending(protocol) as (collector, client):
        collector.judge = lambda came: verdict
        with pytest.raises(RetryableError) as caught:
            await client.emit(Batch.from_events([new_event("a"), new_event("b")]))
    assert caught.value.retry_after == pause
    assert collector.seen == 1


@pytest.mark.parametrize(
    ("protocol", "status"),
    [("grpc", 3), ("grpc", 13), ("grpc", 2), ("grpc", 8), ("http", 400), ("http", 500), ("http", 408)],
)
async def test_what_must_not_be_sent_again_is_found_by_halves(protocol: str, status: int) -> None:
    events = [new_event("a", id=str(number)) for number in range(8)]
    async with sending(protocol) as (collector, client):
        collector.judge = lambda came: Verdict(status, "no good") if "5" in ids_of(came) else TAKEN
        failures = await client.emit(Batch.from_events(events))
    assert [(failure.event_id, failure.position, failure.retryable) for failure in failures] == [("5", 5, False)]
    assert "no good" in failures[0].reason
    assert sum(len(came.records) for came in collector.taken) == 7


async def test_a_server_that_refuses_everything_is_not_asked_about_each_record() -> None:
    async with sending("grpc") as (collector, client):
        collector.judge = lambda came: Verdict(3, "never")
        failures = await client.emit(Batch.from_events([new_event("a") for _ in range(1000)]))
    assert len(failures) == 1000
    assert collector.seen < 100


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_is_too_large_is_sent_in_halves(protocol: str) -> None:
    def judge(came: Any) -> Verdict:
        if len(came.records) <= 2:
            return Verdict()
        return Verdict(8, "grpc: received message larger than max (9 vs. 5)") if protocol == "grpc" else Verdict(413)

    async with sending(protocol) as (collector, client):
        collector.judge = judge
        assert await client.emit(Batch.from_events([new_event("a") for _ in range(8)])) == []
    assert [len(came.records) for came in collector.taken] == 4 * [2]


@pytest.mark.parametrize(
    ("protocol", "status"), [("grpc", 16), ("grpc", 7), ("grpc", 12), ("http", 401), ("http", 404), ("http", 301)]
)
async def test_what_somebody_must_set_right_holds_everything(protocol: str, status: int) -> None:
    async with sending(protocol) as (collector, client):
        collector.judge = lambda came: Verdict(status, "who are you")
        with pytest.raises(MisconfiguredError):
            await client.emit(Batch.from_events([new_event("a")]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_partial_success_makes_dead_letters_with_the_text_of_the_server(protocol: str) -> None:
    async with sending(protocol) as (collector, client):
        collector.judge = lambda came: Verdict(rejected=1, message="too old")
        failures = await client.emit(Batch.from_events([new_event("a", id="1"), new_event("b", id="2")]))
        collector.judge = lambda came: Verdict(message="only a warning")
        assert await client.emit(Batch.from_events([new_event("c")])) == []
        reason = "1 of the request were rejected, and it does not say which of 2 records they are: too old"
        assert failures == [Failure(n, reason, retryable=False, position=at) for at, n in enumerate(("1", "2"))]
        assert client.statistics()._asdict() == {"requests": 2, "records": 1, "partial": 1, "rejected": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_server_that_does_not_answer_is_late(protocol: str) -> None:
    async with sending(protocol, timeout=0.2) as (collector, client):
        collector.released.clear()
        with pytest.raises(LateError, match=r"no answer within 0\.2 s"):
            await client.emit(Batch.from_events([new_event("a")]))
        collector.released.set()
        await asyncio.sleep(0)
        assert await client.emit(Batch.from_events([new_event("a")])) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_nobody_there_may_come_back(protocol: str) -> None:
    client = OtlpEmitter("http://127.0.0.1:1", protocol=protocol).build(SystemClock())
    with pytest.raises(RetryableError):
        await client.emit(Batch.from_events([new_event("a")]))
    await client.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"endpoint": "nowhere"}, "endpoint"),
        ({"endpoint": "http://a:1/?x=1", "protocol": "http"}, "endpoint"),
        ({"protocol": "smoke"}, "protocol"),
        ({"compression": "brotli"}, "compression"),
        ({"headers": {"a b": "c"}}, "headers"),
        ({"headers": {"a": "c\n"}}, "headers"),
        ({"certificate": "a.pem"}, "certificate must be"),
        ({"timeout": 0}, "timeout"),
        ({"window": 0}, "window"),
        ({"root_certificates": 5}, "root_certificates"),
    ],
)
def test_what_can_never_work_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        OtlpEmitter(**{"endpoint": "http://127.0.0.1:4317", **options})
