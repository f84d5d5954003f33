"""One message at the limits never keeps the event loop for long: others are served between its pieces."""

from __future__ import annotations

import gzip
import http.client
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import pytest

from polku.otlp.signals import LOGS, METRICS
from polku.v1.gateway_pb2 import Ack, IngestBatch, IngestEvent, RawPayload
from tests.attacks.lab import Gateway
from tests.attacks.plugins import ERRORS
from tests.attacks.test_messages import field, send, stream
from tests.support.pace import pace

MILLISECONDS = 10.0  # on an idle machine most are 2 to 4; before the work was cut they were 15 to 150
MORE = {
    "a text of escapes": 20.0,
    "attributes in JSON": 15.0,
    "base64 of a log record": 15.0,
    "log records in JSON": 20.0,
    "numbers of a metric in JSON": 15.0,
    "numbers that are no log records": 20.0,
    "serialised events": 15.0,
}  # what one call of a decoder does: it cannot be cut
SLOW = pytest.mark.slow
TRIES = 4  # a turn may be long because the collector of garbage came by; a message that keeps the loop does so always


class _Payloads:
    """What `tests.attacks.payloads` has, made when it is first asked for: to find the tests nobody needs it."""

    def __getattr__(self, name: str) -> Any:
        if not name.isupper():  # pytest looks for marks of its own in whatever a module has
            raise AttributeError(name)
        return getattr(importlib.import_module("tests.attacks.payloads"), name)


BIG = _Payloads()


Send = Callable[[Gateway], None]


def streamed(message: IngestBatch, packs: bool = False, code: str = "") -> Send:
    def run(gateway: Gateway) -> None:
        (answer,) = stream(channel(gateway, packs))(iter([message.SerializeToString()]), timeout=60)
        codes = {error.code for error in Ack.FromString(answer).errors}
        assert codes == {code} if code else codes <= {"METADATA_LIMIT"}

    return run


def called(message: IngestEvent, packs: bool = False, code: str = "") -> Send:
    def run(gateway: Gateway) -> None:
        ack = Ack.FromString(send(channel(gateway, packs))(message.SerializeToString(), timeout=60))
        assert {error.code for error in ack.errors} == ({code} if code else set())

    return run


def channel(gateway: Gateway, packs: bool) -> grpc.Channel:
    packing = grpc.Compression.Gzip if packs else grpc.Compression.NoCompression
    return grpc.insecure_channel(gateway.grpc, [("grpc.use_local_subchannel_pool", 1)], compression=packing)


def posted(
    body: bytes,
    kind: str,
    *,
    path: str = "/v1/events",
    packs: bool = False,
    statuses: Sequence[int] = (200,),
    headers: Mapping[str, str] = {},
) -> Send:
    def run(gateway: Gateway) -> None:
        client = http.client.HTTPConnection(gateway.http, timeout=60)
        given = {"Content-Type": kind, **headers} | ({"Content-Encoding": "gzip"} if packs else {})
        client.request("POST", path, gzip.compress(body, 1) if packs else body, given)
        answer = client.getresponse()
        text = answer.read()
        client.close()
        assert answer.status in statuses, text[:300]

    return run


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def otlp(*, statuses: Sequence[int] = (200,), **scope: Any) -> Send:
    signal, name = (METRICS, "Metrics") if "metrics" in scope else (LOGS, "Logs")
    request = {f"resource{name}": [{f"scope{name}": [scope]}]}
    return posted(as_json(request), JSON, path=signal.path, statuses=statuses)


def lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


BATCHED = "application/cloudevents-batch+json"
CLOUDEVENT = "application/cloudevents+json"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
MESSAGES: dict[str, Callable[[], Send]] = {
    "a batch": lambda: streamed(IngestBatch(source="s", events=BIG.FULL)),
    "a batch with a cluster": lambda: streamed(IngestBatch(source="s", cluster="c", events=BIG.FULL)),
    "a batch without anything": lambda: streamed(IngestBatch(source="s", events=BIG.BARE)),
    "a batch of metadata": lambda: streamed(IngestBatch(source="s", events=BIG.ENTRIES)),
    "10,000 errors": lambda: streamed(IngestBatch(source="s", events=BIG.INVALID), code="INVALID_EVENT"),
    "10,000 errors of a call": lambda: called(IngestEvent(source="s", events=BIG.INVALID), code="INVALID_EVENT"),
    "10,000 errors in JSON": lambda: posted(BIG.INVALID.SerializeToString(), PROTOBUF, statuses=(400,)),
    "10,000 dead letters": lambda: streamed(IngestBatch(source="s", events=BIG.UNROUTABLE), code="UNROUTABLE"),
    "10,000 dead letters of a call": lambda: called(IngestEvent(source="s", events=BIG.UNROUTABLE), code="UNROUTABLE"),
    "10,000 dead letters in JSON": lambda: posted(BIG.UNROUTABLE.SerializeToString(), PROTOBUF, statuses=(422,)),
    "10,000 dead log records": lambda: posted(BIG.LATE, PROTOBUF, path=LOGS.path),
    "one id 10,000 times": lambda: called(IngestEvent(source="s", events=BIG.TWINS), code="DUPLICATE_ID"),
    "10,000 events that are none": lambda: posted(BIG.MALFORMED, PROTOBUF, statuses=(400,)),
    "10,000 long ids": lambda: posted(BIG.LONG_IDS.SerializeToString(), PROTOBUF),
    "10,000 long ids, packed": lambda: streamed(IngestBatch(source="s", events=BIG.RANDOM_IDS), packs=True),
    "10,000 long ids of a packed call": lambda: called(IngestEvent(source="s", events=BIG.RANDOM_IDS), packs=True),
    "a signed body": lambda: posted(BIG.BLOB, "x/y", path="/v1/events?source=hook", headers=BIG.SIGNED),
    "a call": lambda: called(IngestEvent(source="s", events=BIG.FULL)),
    "a packed batch": lambda: streamed(IngestBatch(source="s", events=BIG.FULL), packs=True),
    "a packed call": lambda: called(IngestEvent(source="s", events=BIG.FULL), packs=True),
    "a packed batch of noise": lambda: streamed(IngestBatch(source="s", events=BIG.LARGE), packs=True),
    "serialised events": lambda: streamed(
        IngestBatch(source="polku", raw=RawPayload(data=BIG.FULL.SerializeToString()))
    ),
    "protobuf": lambda: posted(BIG.FULL.SerializeToString(), PROTOBUF),
    "an array": lambda: posted(json.dumps(BIG.TYPED).encode(), JSON),
    "lines": lambda: posted(lines(BIG.TYPED), "application/x-ndjson"),
    "packed lines": lambda: posted(lines(BIG.TYPED), "application/x-ndjson", packs=True),
    "CloudEvents": lambda: posted(json.dumps(BIG.CLOUD).encode(), "application/cloudevents-batch+json"),
    "a CloudEvent with much in it": lambda: posted(json.dumps(BIG.ONE).encode(), CLOUDEVENT),
    "a batch of one CloudEvent": lambda: posted(json.dumps([BIG.ONE]).encode(), BATCHED),
    "large CloudEvents": lambda: posted(json.dumps(BIG.ONES).encode(), BATCHED),
    "base64 of a CloudEvent": lambda: posted(as_json({**BIG.EMPTY, "data_base64": BIG.BASE64}), CLOUDEVENT),
    "base64 in a batch of CloudEvents": lambda: posted(as_json([{**BIG.EMPTY, "data_base64": BIG.BASE64}]), BATCHED),
    "data of a CloudEvent in binary mode": lambda: posted(as_json(["abc"] * 450_000), JSON, headers=BIG.BINARY),
    "base64 in JSON": lambda: posted(as_json({"id": "one", "payload": BIG.BASE64}), JSON),
    "base64 that is none": lambda: posted(as_json({"payload": BIG.BASE64[:-9] + "!"}), JSON, statuses=(400,)),
    "base64 in JSON in a call": lambda: called(IngestEvent(source="json", raw=as_json({"payload": BIG.BASE64}))),
    "a text of colons": lambda: posted(as_json(BIG.COLONS), JSON, statuses=(400,)),
    "a text of escapes": lambda: posted(as_json(BIG.ESCAPES), JSON, statuses=(400,)),
    "large records of JSON that are refused": lambda: posted(lines(BIG.WIDE), "application/x-ndjson", statuses=(400,)),
    "log records in JSON": lambda: otlp(logRecords=[{"timeUnixNano": "1", "body": {"stringValue": "x" * 300}}] * 9_000),
    "attributes in JSON": lambda: otlp(logRecords=[BIG.RECORD] * 9_000),
    "base64 of a log record": lambda: otlp(logRecords=[{"body": {"bytesValue": BIG.BASE64}}]),
    "numbers that are no log records": lambda: otlp(statuses=(400,), logRecords=[1] * 1_300_000),
    "numbers of a metric in JSON": lambda: otlp(metrics=[{"name": "m", "histogram": {"dataPoints": [BIG.NUMBERS]}}]),
    "very many names": lambda: posted(json.dumps(BIG.NAMES).encode(), JSON, statuses=(400,)),
    "a monster": lambda: posted(field(1, BIG.MONSTER), PROTOBUF, packs=True, statuses=(400,)),
    "log records": lambda: posted(field(1, field(2, field(2, b"") * 9_000)), PROTOBUF, path=LOGS.path),
}


def full() -> bytes:
    return bytes(BIG.FULL.SerializeToString())


OF_PLUGINS: dict[str, Callable[[], Send]] = {
    "10,000 events that a plugin refuses": lambda: called(
        IngestEvent(source="s", events=BIG.REFUSED), code="UNDELIVERED"
    ),
    "10,000 events of a plugin": lambda: called(IngestEvent(source="parsed", raw=b"much"), code="UNDELIVERED"),
    "10,000 errors of a plugin": lambda: called(IngestEvent(source="parsed", raw=ERRORS), code="INVALID_RECORD"),
}
OF_GRPC = ("a batch", "a packed call", "10,000 errors of a call", "10,000 dead letters", "serialised events")
ELSEWHERE = 2.0  # times as much: of these servers and processes a part is not ours


@pytest.mark.parametrize("name", MESSAGES)
def test_one_message_leaves_the_loop_to_others(watched: Gateway, name: str) -> None:
    check_turns(watched, MESSAGES[name](), MORE.get(name, MILLISECONDS))


@pytest.mark.parametrize("name", OF_PLUGINS)
def test_one_answer_of_a_plugin_leaves_the_loop_to_others(watched_plugins: Gateway, name: str) -> None:
    check_turns(watched_plugins, OF_PLUGINS[name](), MILLISECONDS)


@pytest.mark.parametrize("name", [*OF_GRPC, *(pytest.param(n, marks=SLOW) for n in MESSAGES if n not in OF_GRPC)])
def test_one_message_leaves_the_loop_to_others_where_grpcio_serves(watched_grpcio: Gateway, name: str) -> None:
    check_turns(watched_grpcio, MESSAGES[name](), ELSEWHERE * MORE.get(name, MILLISECONDS))


@pytest.mark.slow
@pytest.mark.parametrize("name", MESSAGES)
def test_one_message_leaves_the_loop_to_others_on_ray(watched_on_ray: Gateway, name: str) -> None:
    check_turns(watched_on_ray, MESSAGES[name](), ELSEWHERE * MORE.get(name, MILLISECONDS))


def check_turns(gateway: Gateway, run: Send, most: float) -> None:
    """Check that no turn takes more than that many milliseconds."""
    found = list[float]()
    for _ in range(TRIES):
        gateway.forget_turns()
        before = pace()
        run(gateway)
        found.append(gateway.longest_turn() * 1_000 / max(before, pace()))
        if found[-1] <= most:
            return
    raise AssertionError(f"turns of {', '.join(f'{one:.1f}' for one in found)} ms, {most:g} are allowed")
