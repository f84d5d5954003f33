"""Draw records of OTLP, as writers put them or broken, and what becomes of each where all of it is decoded."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from polku import Event
from polku.limits import Limits
from polku.otlp.metadata import OWN
from polku.otlp.reading import Choice, Transcoded, transcode
from polku.otlp.signals import LOGS, TRACES, Signal
from polku.otlp.values import as_text
from polku.otlp.wire import Scope, Wrapper, join, tagged

LIMITS = Limits()
KINDS: dict[Signal, Any] = {LOGS: LogRecord, TRACES: Span}
LONG_KEYS = ("k" * 127, "k" * 128)
TIME = 1_800_000_000_000_000_000

KEYS = st.sampled_from(["a", "http.route", "é", "", "traceparent", "cluster", "polku.x", "kafka.key", *LONG_KEYS])
TEXTS = st.sampled_from(["", "x", "7", "é", "v" * 125, "v" * 126, "v" * 300, "v" * 20_000]) | st.text(max_size=8)


@st.composite
def attribute_bytes(draw: st.DrawFn) -> bytes:
    """Return a `KeyValue`: as writers put it, or as the rules of protobuf allow it, too."""
    one = KeyValue(key=draw(KEYS))
    kind = draw(st.sampled_from(["string", "string", "string", "int", "bytes", "array", "none"]))
    if kind == "string":
        one.value.string_value = draw(TEXTS)
    elif kind == "int":
        one.value.int_value = draw(st.integers(-5, 10**12))
    elif kind == "bytes":
        one.value.bytes_value = draw(st.binary(max_size=200))
    elif kind == "array":
        one.value.array_value.values.add(string_value="x" * draw(st.sampled_from([1, 20_000])))
    usual = one.SerializeToString()
    value = KeyValue(value=one.value).SerializeToString()
    other = {
        "value first": value + KeyValue(key=one.key).SerializeToString(),
        "another key before": KeyValue(key="z").SerializeToString() + usual,
        "another value before": KeyValue(key=one.key).SerializeToString() + b"\x12\x03\x0a\x01q" + value,
        "a field of later versions": usual + b"\xa0\x06\x01",
        "broken": usual + b"\xff",
        "not in UTF-8": b"\x0a\x01a\x12\x03\x0a\x01\xff",
    }
    return other.get(draw(st.sampled_from([*other, *9 * ["usual"]])), usual)


# The kinds of a metric: the number of its field, that of its points' attributes, and their name.
POINTS = ((5, 7, "Number"), (7, 7, "Number"), (9, 9, "Histogram"), (10, 1, "ExponentialHistogram"), (11, 7, "Summary"))


def metric_of(kind: tuple[int, int, str], points: list[tuple[int, list[bytes]]]) -> bytes:
    """Return a serialised metric of a kind, with points of a time and attributes."""
    number, tag, name = kind
    made = getattr(metrics_pb2, f"{name}DataPoint")
    contents = [
        made(time_unix_nano=time_ns).SerializeToString() + b"".join(tagged(tag, len(one)) + one for one in attributes)
        for time_ns, attributes in points
    ]
    data = b"".join(tagged(1, len(content)) + content for content in contents)
    return metrics_pb2.Metric(name="m", unit="By").SerializeToString() + tagged(number, len(data)) + data


@st.composite
def metric_bytes(draw: st.DrawFn) -> bytes:
    times = st.sampled_from([*8 * [TIME], 0, 2**64 - 1])
    points = st.tuples(times, st.lists(attribute_bytes(), max_size=2))
    content = metric_of(draw(st.sampled_from(POINTS)), draw(st.lists(points, max_size=3)))
    return content[: len(content) - draw(st.sampled_from([*12 * [0], 1, 7]))]


@st.composite
def record_bytes(draw: st.DrawFn, signal: Signal) -> bytes:
    own = draw(st.lists(attribute_bytes(), max_size=5))
    ids: dict[str, Any] = {"trace_id": draw(st.sampled_from([b"", b"t" * 16])), "span_id": b"s" * 8, "flags": 0x101}
    record: Any
    if signal is LOGS:
        record = LogRecord(severity_text="I", **ids)
        record.severity_number = draw(st.sampled_from([0, 1, 9, 24, 25, -1]))
        times = {0: (0, 0), 1: (TIME, 5), 2: (0, TIME), 3: (2**64 - 1, 0)}[draw(st.sampled_from([0, 1, 1, 2, 3]))]
        record.time_unix_nano, record.observed_time_unix_nano = times
        record.body.string_value = draw(TEXTS)
        if draw(st.booleans()):
            record.attributes.add(key="log.record.uid").value.string_value = draw(st.sampled_from(["", "u", "u" * 300]))
    else:
        record = Span(name="n", trace_state=draw(st.sampled_from(["", "a=b"])), start_time_unix_nano=TIME, **ids)
        record.status.code = draw(st.sampled_from([0, 1, 2, 7]))
    number = 6 if signal is LOGS else 9
    content: bytes = record.SerializeToString() + b"".join(tagged(number, len(one)) + one for one in own)
    return content[: len(content) - draw(st.sampled_from([0, 0, 0, 0, 1, 7]))]


def expected(signal: Signal, record: bytes, choice: Choice) -> Event | None:
    """Return the event of a record, made by decoding all of it; None where it is refused."""
    try:
        read: Any = KINDS[signal].FromString(record)
    except DecodeError:
        return None
    event = Event(source="unknown_service", event_type=signal.event_type)
    if signal is LOGS:
        uids = [one.value.string_value for one in read.attributes if one.key == "log.record.uid"]
        event.id = uids[0] if uids else ""
        time_ns = read.time_unix_nano or read.observed_time_unix_nano
        number = read.severity_number
        event.severity = (number + 3) // 4 if 1 <= number <= 24 else 0  # type: ignore[assignment]
        event.severity = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5}.get(event.severity, 0)  # type: ignore[assignment]
    else:
        event.id = f"{read.trace_id.hex()}-{read.span_id.hex()}" if read.trace_id else ""
        time_ns = read.start_time_unix_nano
        event.outcome = read.status.code if read.status.code in (1, 2) else 0  # type: ignore[assignment]
        event.severity = 4 if read.status.code == 2 else 2  # type: ignore[assignment]
        if read.trace_state:
            event.metadata["tracestate"] = read.trace_state
    if time_ns > 2**63 - 1 or len(event.id) > LIMITS.id_bytes:
        return None
    event.timestamp_unix_ns = time_ns
    if read.trace_id:
        event.metadata["traceparent"] = f"00-{read.trace_id.hex()}-{read.span_id.hex()}-01"
    for one in read.attributes:
        if (choice.attributes is not None and one.key not in choice.attributes) or one.key in OWN or not one.key:
            continue
        if one.key.startswith(("polku.", "kafka.")):
            continue
        text = as_text(one.value)
        if len(one.key.encode()) <= LIMITS.metadata_key_bytes and len(text.encode()) <= LIMITS.metadata_value_bytes:
            event.metadata[one.key] = text
    event.payload = Wrapper(b"", b"").wrap(record)
    return event


def transcoded(signal: Signal, records: list[bytes], choice: Choice) -> Transcoded:
    parts = transcode(signal, b"".join(join([Scope(b"", b"", records)])), LIMITS, choice)
    while True:
        try:
            next(parts)
        except StopIteration as end:
            done: Transcoded = end.value
            return done


CHOICES = st.sampled_from([Choice(), Choice(()), Choice(["http.route", "a", "polku.x"])])
SIGNALS = st.sampled_from([LOGS, TRACES])
