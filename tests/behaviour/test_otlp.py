"""OTLP in and out, whatever the pipeline runs on."""

from __future__ import annotations

import asyncio

from polku import Code, Event, Filter, Hub, OtlpEmitter
from polku.otlp import log_record
from polku.otlp.signals import LOGS, METRICS, TRACES
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.otlp.collector import Collector, Verdict
from tests.otlp.requests import Door, logs, metrics, spans


def is_wanted(event: Event) -> bool:
    """Return whether a log record goes on; fails on some."""
    text = log_record(event).body.string_value if event.event_type == "otel.log" else ""
    if text == "fail":
        raise ValueError("as asked")
    return text != "drop"


def mark(event: Event) -> None:
    """Add an attribute."""
    event.metadata["seen"] = "yes"


@on_ray_when_slow
async def test_records_go_through_and_what_is_refused_is_a_dead_letter(start: Start) -> None:
    collector = Collector("grpc")
    await collector.start()
    collector.judge = lambda came: Verdict(3, "no spans here") if came.signal is TRACES else Verdict()
    hub = Hub().middleware(Filter(is_wanted)).middleware(mark).emitter(OtlpEmitter(collector.endpoint)).ack("delivered")
    ports = dict.fromkeys(("grpc_addr", "http_addr", "otlp_addr", "otlp_http_addr"), "127.0.0.1:0")
    pipeline = await asyncio.to_thread(start, hub, **ports)
    place = Door(pipeline, [])
    bodies = [(LOGS, logs(["a", "drop", "fail"])), (TRACES, spans(["x"])), (METRICS, metrics(["m"], points=1))]
    answers = [await asyncio.to_thread(place.grpc, signal, body.SerializeToString()) for signal, body in bodies]
    assert [answer.status for answer in answers] == [0, 0, 0]
    partial = LOGS.calls.ExportLogsServiceResponse.FromString(answers[0].body).partial_success
    assert (partial.rejected_log_records, "as asked" in partial.error_message) == (1, True)
    refused = TRACES.calls.ExportTraceServiceResponse.FromString(answers[1].body).partial_success
    assert (refused.rejected_spans, "no spans here" in refused.error_message) == (1, True)
    assert answers[2].body == b""
    assert {came.signal for came in collector.taken} == {LOGS, METRICS}
    assert [record.body.string_value for came in collector.taken[:1] for record in came.records] == ["a"]
    assert {one.key: one.value.string_value for one in collector.taken[0].records[0].attributes} == {"seen": "yes"}
    letters = await asyncio.to_thread(pipeline.dead_letters)
    assert {letter.code for letter in letters} == {Code.MIDDLEWARE_ERROR, Code.UNDELIVERED}
    answer = await asyncio.to_thread(Door(pipeline, []).http, LOGS, logs(["b"]).SerializeToString())
    assert answer.status == 200
    assert pipeline.otlp_address not in (None, pipeline.address)
    assert pipeline.otlp_http_address not in (None, pipeline.http_address)
    await asyncio.to_thread(pipeline.stop)
    await collector.stop()
