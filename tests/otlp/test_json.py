"""JSON of the three signals is read as what protobuf's own writer says of the same messages."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from polku.otlp.json import read_json
from polku.otlp.signals import LOGS, METRICS, TRACES, Signal
from tests.otlp.requests import NS, SPAN, TRACE, logs, metrics, spans

IDS = ("traceId", "spanId", "parentSpanId")


def full_logs() -> Message:
    request = logs(["a"], color="red")
    (record,) = request.resource_logs[0].scope_logs[0].log_records
    record.observed_time_unix_nano, record.severity_text, record.dropped_attributes_count = 2**64 - 1, "INFO", 3
    values = record.body.kvlist_value.values
    values.add(key="bytes").value.bytes_value = b"\x00\xff\xfe"
    values.add(key="least").value.int_value = -(2**63)
    values.add(key="none")
    many = values.add(key="many").value.array_value.values
    many.add(bool_value=False)
    many.add(double_value=1.5e300)
    many.add(double_value=float("-inf"))
    return request


def full_spans() -> Message:
    request = spans(["ok", "!failed"])
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.parent_span_id, span.kind, span.flags = SPAN, Span.SPAN_KIND_CONSUMER, 0x301
    span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="no"))
    event = span.events.add(time_unix_nano=NS, name="happened", dropped_attributes_count=1)
    event.attributes.add(key="k").value.string_value = "v"
    link = span.links.add(trace_id=TRACE[::-1], span_id=SPAN[::-1], trace_state="c=d", flags=1)
    link.attributes.add(key="k").value.int_value = 1
    return request


def full_metrics() -> Message:
    request = metrics(["gauge"])
    metric = request.resource_metrics[0].scope_metrics[0].metrics
    metric[0].unit, metric[0].description = "By", "how much"
    total = metric.add(name="sum").sum
    total.aggregation_temporality, total.is_monotonic = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE, True
    point = total.data_points.add(start_time_unix_nano=1, time_unix_nano=NS, as_int=-5, flags=1)
    exemplar = point.exemplars.add(time_unix_nano=NS, as_double=0.5, span_id=SPAN, trace_id=TRACE)
    exemplar.filtered_attributes.add(key="k").value.string_value = "v"
    histogram = metric.add(name="histogram").histogram
    histogram.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    histogram.data_points.add(count=3, sum=1.5, bucket_counts=[1, 2, 2**63], explicit_bounds=[0.1, 9], min=0.0, max=9.5)
    exponential = metric.add(name="exponential").exponential_histogram.data_points.add(scale=-3, zero_count=2, count=4)
    exponential.zero_threshold = 0.25
    exponential.positive.offset = -7
    exponential.positive.bucket_counts.extend([0, 2**40])
    exponential.negative.bucket_counts.append(1)
    summary = metric.add(name="summary").summary.data_points.add(count=2, sum=3)
    summary.quantile_values.add(quantile=0.99, value=7)
    return request


REQUESTS = {LOGS: full_logs, TRACES: full_spans, METRICS: full_metrics}


def as_json(request: Message, *, ids_in_capitals: bool, long_as_text: bool) -> bytes:
    """Return a request as the specification wants it: ids in hexadecimal, enums as numbers, names in lowerCamelCase."""

    def changed(content: Any, name: str = "") -> Any:
        if isinstance(content, dict):
            return {key: changed(value, key) for key, value in content.items()}
        if isinstance(content, list):
            return [changed(one, name) for one in content]
        if name in IDS:
            text = base64.b64decode(content).hex()
            return text.upper() if ids_in_capitals else text
        is_long = name.endswith(("Nano", "Count", "Counts", "count", "intValue", "asInt")) and isinstance(content, str)
        return int(content) if is_long and not long_as_text else content

    return json.dumps(changed(json_format.MessageToDict(request, use_integers_for_enums=True))).encode()


def read(signal: Signal, body: bytes) -> bytes:
    reading = read_json(signal, body)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            found: bytes = end.value
            return found


@pytest.mark.parametrize("signal", REQUESTS, ids=[signal.name for signal in REQUESTS])
@pytest.mark.parametrize("ids_in_capitals", [False, True])
@pytest.mark.parametrize("long_as_text", [False, True])
def test_a_request_in_json_is_the_same_as_in_protobuf(
    signal: Signal, ids_in_capitals: bool, long_as_text: bool
) -> None:
    request = REQUESTS[signal]()
    body = as_json(request, ids_in_capitals=ids_in_capitals, long_as_text=long_as_text)
    assert type(request).FromString(read(signal, body)) == request


@pytest.mark.parametrize("signal", REQUESTS, ids=[signal.name for signal in REQUESTS])
def test_names_in_snake_case_are_unknown_fields(signal: Signal) -> None:
    body = json_format.MessageToJson(REQUESTS[signal](), preserving_proto_field_name=True)
    assert read(signal, body.encode()) == b""
