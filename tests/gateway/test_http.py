"""The HTTP door, with real clients: every form of good input, and the answer to each kind of bad input."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from backports import zstd
from cloudevents.core.bindings import http as cloudevents_http
from cloudevents.core.v1.event import CloudEvent
from google.protobuf import json_format

from polku import BufferStrategy, Event, Hub, IngestContext, Limits, Pipeline, RecordError, SettingError
from polku.v1.gateway_pb2 import Ack, EventPayload, HealthResponse
from tests.gateway.http_client import Answer, connect, curl, parse, post, read_to_end
from tests.support.recorder import Recorder

LIMITS = Limits(message_bytes=200_000, batch_events=100, metadata_entries=8, read_seconds=1, connections=50)
NDJSON = "application/x-ndjson"
PROTOBUF = "application/x-protobuf"


def parse_lines(data: bytes) -> Iterator[Event | RecordError]:
    for number, line in enumerate(data.splitlines(), 1):
        yield Event(event_type="line", payload=line) if line != b"bad" else RecordError("cannot be read", line=number)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").limits(LIMITS).ingestor(parse_lines, source="lines").emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        yield pipeline


@pytest.fixture
def address(pipeline: Pipeline) -> Iterator[str]:
    address = str(pipeline.http_address)
    yield address
    assert post(address, b'{"id": "afterwards", "event_type": "t"}').ids == ["afterwards"]  # everything else goes on


def test_a_json_object_is_acknowledged_with_true_numbers(address: str, recorder: Recorder) -> None:
    answer = post(address, b'{"id": "one", "event_type": "user.login", "severity": "warning"}')
    assert (answer.status, answer.ids, answer.body["errors"]) == (200, ["one"], [])
    assert answer.headers["content-type"] == "application/json"
    assert answer.body["buffer_capacity"] == 10_000
    assert answer.body["middleware_stats"]["total_received"] == 1
    ack = json_format.Parse(json.dumps(answer.body), Ack())  # protobuf's own JSON reads it
    assert (list(ack.event_ids), ack.buffer_capacity) == (["one"], 10_000)
    (event,) = recorder.wait_for(1)
    assert (event.event_type, event.severity, event.source) == ("user.login", 3, "")
    assert abs(event.timestamp_unix_ns - time.time_ns()) < 60e9


def test_a_source_and_a_cluster_fill_in_what_events_lack(address: str, recorder: Recorder) -> None:
    post(address, b'{"id": "query"}', query="?source=my-agent&cluster=prod")
    post(address, b'{"id": "header"}', "application/json", "-H", "X-Polku-Source: other", "-H", "X-Polku-Cluster: c")
    post(address, b'{"id": "own", "source": "mine", "metadata": {"cluster": "home"}}', query="?source=x&cluster=y")
    found = {event.id: (event.source, event.metadata["cluster"]) for event in recorder.wait_for(3)}
    assert found == {"query": ("my-agent", "prod"), "header": ("other", "c"), "own": ("mine", "home")}


class Formats:
    """Make an event that says what the hint about the format was."""

    sources = ("formats",)

    def ingest(self, data: bytes, context: IngestContext) -> list[Event]:
        return [Event(event_type=type(context.format).__name__, payload=context.format.encode())]


def test_an_ingestor_gets_the_format_as_a_plain_string(recorder: Recorder) -> None:
    hub = Hub(runtime="inline").ingestor(Formats()).emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        for media_type in ("application/json", NDJSON, PROTOBUF, "text/csv"):
            assert post(str(pipeline.http_address), b"x", media_type, query="?source=formats").status == 200
        found = [(event.event_type, event.payload) for event in recorder.wait_for(4)]
    assert found == [("str", b"json"), ("str", b"ndjson"), ("str", b"protobuf"), ("str", b"text/csv")]


def test_an_array_is_taken_with_an_error_for_each_bad_record(address: str, recorder: Recorder) -> None:
    answer = post(address, b'[{"id": "a"}, {"id": "b", "severity": "loud"}, {"id": "c"}]')
    assert (answer.status, answer.ids, answer.codes) == (200, ["a", "c"], ["INVALID_RECORD"])
    assert answer.body["errors"][0]["event_id"] == "b"
    assert "[1]" in answer.message
    assert "severity='loud'" in answer.message
    recorder.wait_for(2)


@pytest.mark.parametrize("type", [NDJSON, "application/jsonl", "application/json; charset=utf-8"])
def test_lines_are_taken_with_an_error_for_each_bad_one(address: str, recorder: Recorder, type: str) -> None:
    answer = post(address, b'{"id": "a"}\n{"id": \n\n{"id": "c"}\n', type)
    assert (answer.status, answer.ids, answer.codes) == (200, ["a", "c"], ["INVALID_RECORD"])
    assert answer.message.startswith("line 2: ")
    recorder.wait_for(2)


@pytest.mark.parametrize("type", [PROTOBUF, "application/protobuf"])
def test_a_protobuf_payload_is_taken_event_by_event(address: str, recorder: Recorder, type: str) -> None:
    payload = EventPayload(events=[Event(id="a", source="s"), Event(id="b", source="s")]).SerializeToString()
    answer = post(address, payload + b"\x0a\x04\x0a\x02\xff\xfe", type)
    assert (answer.status, answer.ids, answer.codes) == (200, ["a", "b"], ["MALFORMED"])
    assert "events[2]" in answer.message
    assert [event.id for event in recorder.wait_for(2)] == ["a", "b"]


@pytest.mark.parametrize("type", ["text/plain", "application/octet-stream", "application/json"])
def test_a_source_with_an_ingestor_of_its_own_is_read_by_it(address: str, recorder: Recorder, type: str) -> None:
    answer = post(address, b"one\nbad\n{}", type, query="?source=lines")
    assert (answer.status, len(answer.ids), answer.message) == (200, 2, "line 2: cannot be read")
    assert [(event.payload, event.source) for event in recorder.wait_for(2)] == [(b"one", "lines"), (b"{}", "lines")]


def test_other_types_go_to_the_default_ingestor(recorder: Recorder) -> None:
    def take(data: bytes, context: Any) -> list[Event]:
        return [Event(event_type=context.format, payload=data)]

    with Hub(runtime="inline").default_ingestor(take).emitter(recorder).start(http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.http_address)
        assert post(address, b"<a/>", "text/xml", query="?source=agent").status == 200
        assert post(address, b'{"id": "known"}', query="?source=agent").ids == ["known"]
    events = [(event.event_type, event.source, event.payload) for event in recorder.events()]
    assert events == [("text/xml", "agent", b"<a/>"), ("", "agent", b"")]


async def test_cloudevents_of_the_official_sdk_are_taken_in_every_mode(address: str, recorder: Recorder) -> None:
    def make(event_id: str) -> CloudEvent:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        attributes = {"id": event_id, "type": "com.example.paid", "source": "https://shop.example/näive orders"}
        kept = {"subject": "42", "dataschema": "https://schema.example/1", "traceparent": trace, "tier": "gold €"}
        given: Any = {**attributes, **kept, "specversion": "1.0", "datacontenttype": "application/json"}
        return CloudEvent(given, {"total": 1.5})

    structured = cloudevents_http.to_structured_event(make("structured"))
    binary = cloudevents_http.to_binary_event(make("binary"))
    batch = [cloudevents_http.to_structured_event(make(f"batch-{n}")).body for n in range(2)]
    batched = {"Content-Type": "application/cloudevents-batch+json"}
    async with aiohttp.ClientSession() as session:
        for headers, body, ids in (
            (structured.headers, structured.body, ["structured"]),
            (binary.headers, binary.body, ["binary"]),
            (batched, b"[" + b",".join(batch) + b"]", ["batch-0", "batch-1"]),
        ):
            async with session.post(f"http://{address}/v1/events?source=unused", data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                assert (await answer.json())["event_ids"] == ids
    for event in await asyncio.to_thread(recorder.wait_for, 4):
        assert (event.event_type, json.loads(event.payload)) == ("com.example.paid", {"total": 1.5})
        assert (event.metadata["subject"], event.metadata["dataschema"]) == ("42", "https://schema.example/1")
        assert event.metadata["traceparent"].startswith("00-0af7")
        assert event.metadata["tier"] == "gold €"
        assert "datacontenttype" not in event.metadata


def test_a_binary_cloudevent_may_carry_anything(address: str, recorder: Recorder) -> None:
    attributes = {"specversion": "1.0", "id": "png", "source": "/cam", "type": "shot", "time": "2026-01-01T00:00:00Z"}
    headers = [part for name, value in attributes.items() for part in ("-H", f"ce-{name}: {value}")]
    assert post(address, b"\x89PNG\xff\x00", "image/png", *headers).ids == ["png"]
    (event,) = recorder.wait_for(1)
    assert (event.payload, event.metadata["datacontenttype"]) == (b"\x89PNG\xff\x00", "image/png")
    assert event.timestamp_unix_ns == 1_767_225_600_000_000_000


def test_a_bad_cloudevent_costs_only_itself(address: str, recorder: Recorder) -> None:
    good = {"specversion": "1.0", "id": "good", "source": "/s", "type": "t"}
    batch = [good, {**good, "id": "bad", "time": "yesterday"}, {**good, "specversion": "0.3"}, {"id": "x"}]
    answer = post(address, json.dumps(batch).encode(), "application/cloudevents-batch+json")
    assert (answer.status, answer.ids) == (200, ["good"])
    assert answer.codes == ["INVALID_RECORD"] * 3
    assert "time='yesterday'" in answer.body["errors"][0]["message"]
    binary = post(address, b"", "text/plain", "-H", "ce-specversion: 1.0", "-H", "ce-id: 1", "-H", "ce-source: /s")
    assert (binary.status, binary.codes) == (400, ["INVALID_RECORD"])
    assert binary.message.startswith("ce-type='': is missing")
    for content_type, names in (("text/plain", ("id",)), ("application/json", ("id", "source", "type"))):
        headers = [word for name in names for word in ("-H", f"ce-{name}: 1")]
        versionless = post(address, b"{}", content_type, *headers)
        assert (versionless.status, versionless.codes) == (400, ["INVALID_RECORD"])
        assert versionless.message.startswith("ce-specversion='': is missing")
    recorder.wait_for(1)


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("zstd", zstd.compress)]
)
def test_compressed_bodies_are_taken(address: str, recorder: Recorder, encoding: str, compress: Any) -> None:
    parts = [b'{"id": "a"}\n', b'{"id": "b"}\n']
    body = b"".join(map(compress, parts))
    assert post(address, body, NDJSON, "-H", f"Content-Encoding: {encoding}").ids == ["a", "b"]
    recorder.wait_for(2)


async def test_requests_in_flight_travel_together(address: str, recorder: Recorder) -> None:
    recorder.hold()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=40)) as session:

        async def send(number: int) -> list[str]:
            async with session.post(f"http://{address}/v1/events", json={"id": f"{number}"}) as answer:
                return list((await answer.json())["event_ids"])

        assert await asyncio.gather(*map(send, range(200))) == [[f"{n}"] for n in range(200)]
    recorder.release()
    assert len(await asyncio.to_thread(recorder.wait_for, 200)) == 200
    assert len(recorder.batches()) < 100


def test_health_says_how_every_part_is(address: str) -> None:
    answer = curl(address, "/health")
    assert answer.status == 200
    health = json_format.ParseDict(answer.body, HealthResponse())
    assert health.healthy
    assert set(health.components) == {"ingest", "buffer", "emitter:recorder"}


def test_a_large_upload_is_only_asked_for_when_it_is_wanted(address: str) -> None:
    expect = ("-H", "Expect: 100-continue")
    assert post(address, b'{"id": "a"}', "application/json", *expect).ids == ["a"]
    with connect(address) as connection:
        head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n"
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 415")


@pytest.mark.parametrize(
    ("type", "allowed"),
    [
        ("application/x-www-form-urlencoded", "application/x-ndjson"),
        ("text/plain", "application/cloudevents+json"),
        ("application/json; charset=latin-1", "UTF-8"),
        ("application/cloudevents+avro", "application/cloudevents-batch+json"),
    ],
)
def test_an_unknown_content_type_is_415_and_what_is_accepted_is_named(address: str, type: str, allowed: str) -> None:
    answer = post(address, b'{"id": "x"}', type)
    assert (answer.status, answer.codes) == (415, ["UNSUPPORTED"])
    assert allowed in answer.message
    assert "application/x-ndjson" in answer.headers["accept-post"]


def test_an_unknown_source_of_an_unknown_type_is_named(address: str) -> None:
    answer = post(address, b"x", "text/plain", query="?source=nobody")
    assert answer.status == 415
    assert "no ingestor serves source='nobody'" in answer.message


def test_requests_that_are_refused_before_they_are_read_are_counted_by_code(pipeline: Pipeline, address: str) -> None:
    def refused() -> dict[str, int]:
        ingest = pipeline.statistics().lanes[0].ingest
        assert ingest is not None
        return dict(ingest.refused)

    assert refused() == {}
    post(address, b"x", "text/plain")
    post(address, b"{}", "application/json", "-H", "Content-Encoding: br")
    post(address, b"x" * 300_000, "application/json")
    curl(address, "/v1/logs", body=b"x", type="text/plain")
    post(address, b'{"id": "1"', "application/json")
    assert refused() == {"UNSUPPORTED": 3, "TOO_LARGE": 1, "INVALID_RECORD": 1}


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
def test_an_unknown_encoding_is_415_and_what_is_accepted_is_named(address: str, encoding: str) -> None:
    answer = post(address, b"x", "application/json", "-H", f"Content-Encoding: {encoding}")
    assert (answer.status, answer.codes) == (415, ["UNSUPPORTED"])
    assert answer.headers["accept-encoding"] == "gzip, zstd, identity"
    assert encoding in answer.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "there is no record"),
        (b"{", "it ends too early"),
        (b'{"id": 5}', "id=5: is a number"),
        (b'{"id": "a", "eventtype": "t"}', "did you mean 'event_type'?"),
        (b'{"id": "\xff\xfe"}', "not UTF-8: byte 0xff"),
        (b'"text"', "record='text'"),
    ],
)
def test_malformed_json_is_400_naming_field_and_fix(address: str, body: bytes, message: str) -> None:
    answer = post(address, body)
    assert (answer.status, answer.codes) == (400, ["INVALID_RECORD"])
    assert message in answer.message


def test_malformed_protobuf_is_400(address: str) -> None:
    answer = post(address, b"\xff\xff\xff", PROTOBUF)
    assert (answer.status, answer.codes) == (400, ["MALFORMED"])


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_a_damaged_compressed_body_is_400(address: str, encoding: str, compress: Any) -> None:
    good = compress(b'{"id": "a"}' * 50)
    for body in (good[:-3], good[:-12], b"no " + good, good + b"more"):
        answer = post(address, body, "application/json", "-H", f"Content-Encoding: {encoding}")
        assert (answer.status, answer.codes) == (400, ["MALFORMED"]), answer
        assert f"not valid {encoding}" in answer.message


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_a_decompression_bomb_is_stopped_at_the_limit(address: str, encoding: str, compress: Any) -> None:
    bomb = compress(bytes(100_000_000))
    assert len(bomb) < LIMITS.message_bytes
    before = _peak_memory()
    answer = post(address, bomb, "application/json", "-H", f"Content-Encoding: {encoding}")
    assert (answer.status, answer.codes) == (413, ["TOO_LARGE"])
    assert "more than 200000 bytes when decompressed" in answer.message
    assert _peak_memory() - before < 50_000_000


_HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"\x00\x01\r\n\r\n", 400, "head: it is not a valid HTTP/1.1 request"),
        (_HEAD + b"a b: c\r\n\r\n", 400, "head: it is not a valid HTTP/1.1 request"),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 9_000), 431, "a line of it has more than 8190 bytes"),
        (_HEAD + b"a: %s\r\n\r\n" % (b"b" * 9_000), 431, "a line of it has more than 8190 bytes"),
        (_HEAD + b"a: b\r\n" * 200 + b"\r\n", 431, "it has more than 128 fields"),
        (_HEAD + (b"a: %s\r\n" % (b"b" * 8_000)) * 100, 431, "it has more than 65536 bytes"),
    ],
)
def test_what_is_no_request_is_answered_in_the_form_of_all_answers(
    address: str, sent: bytes, status: int, message: str
) -> None:
    with connect(address) as client:
        client.sendall(sent)
        answer = parse(read_to_end(client))
    assert (answer.status, answer.codes) == (status, ["MALFORMED"])
    assert message in answer.message
    assert (answer.headers["server"], answer.headers["content-type"]) == ("polku", "application/json")


def test_a_path_that_is_not_there_is_answered_with_those_that_are(address: str) -> None:
    message = curl(address, "/nothing").message
    assert message.startswith("GET /nothing: Not Found; there are POST /v1/events, ")
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        assert path in message


def test_no_answer_names_versions(address: str) -> None:
    for path, body in (("/health", None), ("/nothing", None), ("/v1/events", b"{}"), ("/v1/events", b"no")):
        assert curl(address, path, body=body).headers["server"] == "polku"


def test_the_rest_of_a_body_that_was_not_read_is_no_head(address: str) -> None:
    with connect(address) as client:
        client.sendall(_HEAD + b"Content-Type: text/nothing\r\nContent-Length: 180000\r\n\r\n")
        time.sleep(0.05)  # it has its answer by now
        client.sendall(b"x" * 180_000)
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = read_to_end(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"415", b"200"]


def test_too_large_a_body_is_413_with_and_without_a_length(address: str) -> None:
    body = b" " * 200_001
    for options in ((), ("-H", "Transfer-Encoding: chunked")):
        answer = post(address, body, "application/json", *options)
        assert (answer.status, answer.codes) == (413, ["TOO_LARGE"])
        assert "the limit is 200000" in answer.message


def test_too_many_events_are_413_and_too_much_metadata_is_400(address: str) -> None:
    answer = post(address, b'{"event_type": "t"}\n' * 101, NDJSON)
    assert (answer.status, answer.codes) == (413, ["TOO_MANY_EVENTS"])
    metadata = {f"key-{n}": "v" for n in range(9)}
    answer = post(address, json.dumps({"id": "m", "metadata": metadata}).encode())
    assert (answer.status, answer.codes) == (400, ["METADATA_LIMIT"])


def test_other_methods_and_paths_are_named(address: str) -> None:
    wrong = curl(address, "/v1/events")
    assert wrong.status == 405
    assert {method.strip() for method in wrong.headers["allow"].split(",")} == {"POST", "OPTIONS"}
    assert "POST /v1/events" in wrong.message
    assert curl(address, "/v1/event", body=b"{}", type="application/json").status == 404
    options = curl(address, "/v1/events", "-X", "OPTIONS")
    assert (options.status, "application/json" in options.headers["accept-post"]) == (204, True)


def test_a_client_that_vanishes_in_mid_body_costs_nothing(address: str, pipeline: Pipeline) -> None:
    for _ in range(60):  # more than there may be connections
        with connect(address) as connection:
            connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: 50\r\n\r\n" + b'{"id": "half')
    deadline = time.monotonic() + 30
    while True:  # until the server has noticed
        try:
            assert post(address, b'{"id": "whole"}').ids == ["whole"]
            break
        except AssertionError:
            assert time.monotonic() < deadline


def test_a_body_with_broken_chunks_is_refused(address: str) -> None:
    with connect(address) as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"xyz\r\n")
        answer = parse(read_to_end(connection))
    # aiohttp's C parser tells the handler nothing: then it is the time that runs out
    assert answer.status in (400, 408)
    assert answer.codes == ["MALFORMED"]


def test_what_is_no_http_is_400_and_does_not_fill_the_log(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with connect(address) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b" 400 " in read_to_end(connection)
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"", b"POST /v1/events HTTP/1.1\r\nHo"])
def test_a_head_that_does_not_come_is_not_waited_for(address: str, sent: bytes) -> None:
    with connect(address) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        assert read_to_end(connection).startswith(b"HTTP/1.1 408")
        assert 0.5 < time.monotonic() - started < 60


def test_a_head_that_comes_drop_by_drop_is_not_waited_for_either(address: str) -> None:
    started = time.monotonic()
    with connect(address) as connection, pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
        _drip(connection, b"GET /health HTTP/1.1\r\n", b"X-A: b\r\n")
    assert time.monotonic() - started < 60


def test_a_body_that_does_not_come_is_408(address: str) -> None:
    with connect(address) as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: 50\r\n\r\n" + b'{"id": "half')
        answer = parse(read_to_end(connection))
    assert (answer.status, answer.codes) == (408, ["MALFORMED"])
    assert "not complete after 1 s" in answer.message


def test_a_connection_is_kept_for_the_next_request(address: str) -> None:
    body = b'{"id": "kept"}'
    request = (
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n" + body
    )
    with connect(address) as connection:
        for pause in (1.2, 0.0):  # the first is longer than a head may take
            connection.sendall(request)
            assert parse(connection.recv(65536)).ids == ["kept"]
            time.sleep(pause)


def test_connections_over_the_limit_are_closed(address: str) -> None:
    held = [connect(address) for _ in range(LIMITS.connections)]
    with connect(address) as connection:
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"50 HTTP connections are open; close some" in answer
    for connection in held:
        connection.close()


def test_without_the_token_it_is_401(recorder: Recorder) -> None:
    token = uuid.uuid4().hex
    hub = Hub(runtime="inline").emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0", http_token=token) as pipeline:
        address = str(pipeline.http_address)
        wrong: list[list[str]] = [[], ["-H", "Authorization: Bearer x"], ["-H", f"Authorization: Basic {token}"]]
        for options in wrong:
            answer = post(address, b'{"id": "a"}', "application/json", *options)
            assert (answer.status, answer.codes) == (401, ["UNAUTHENTICATED"])
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert token not in answer.message
        for scheme in ("Bearer", "bearer"):
            answer = post(address, b'{"id": "a"}', "application/json", "-H", f"Authorization: {scheme} {token}")
            assert answer.ids == ["a"]
        assert curl(address, "/health").status == 200
    assert len(recorder.events()) == 2


def test_a_full_buffer_is_429_with_a_time_to_come_back(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2, overflow="drop_newest")).emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.http_address)
        partly = post(address, b'[{"id": "1"}, {"id": "2"}, {"id": "3"}]')
        assert (partly.status, partly.ids, partly.codes) == (200, ["1", "2"], ["BUFFER_FULL"])
        full = post(address, b'{"id": "4"}')
        assert (full.status, full.codes, full.headers["retry-after"]) == (429, ["BUFFER_FULL"], "1")
        assert full.body["buffer_size"] == 2
        recorder.release()
        recorder.wait_for(2)
        assert _until(lambda: post(address, b'{"id": "5"}'), 200).ids == ["5"]


async def test_too_much_under_way_is_429(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").limits(Limits(open_bytes=1_000)).buffer_strategy(BufferStrategy.ring(1))
    async with hub.emitter(recorder).start(http_addr="127.0.0.1:0") as pipeline, aiohttp.ClientSession() as session:
        url = f"http://{pipeline.http_address}/v1/events"

        async def send(number: int) -> int:
            async with session.post(url, json={"id": f"{number}", "event_type": "x" * 250}) as answer:
                return answer.status

        waiting = [asyncio.ensure_future(send(number)) for number in range(8)]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        while not any(task.result() == 429 for task in done):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        recorder.release()
        statuses = await asyncio.gather(*waiting)
    assert set(statuses) == {200, 429}
    assert len(recorder.events()) == statuses.count(200)


async def test_while_draining_it_is_503_with_a_time_to_come_back(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").emitter(recorder)
    async with hub.start(http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.http_address)
        assert (await asyncio.to_thread(post, address, b'{"id": "a"}')).ids == ["a"]
        stopping = asyncio.ensure_future(pipeline.stop_async(20))
        health = await asyncio.to_thread(_until, lambda: curl(address, "/health"), 503)
        assert not health.body["components"]["ingest"]["healthy"]
        answer = await asyncio.to_thread(post, address, b'{"id": "b"}')
        assert (answer.status, answer.codes) == (503, ["DRAINING"])
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["connection"] == "close"
        recorder.release()
        assert (await stopping).complete
    with pytest.raises(OSError):  # noqa: PT011 - refused
        connect(address)
    assert [event.id for event in recorder.events()] == ["a"]


def test_events_that_all_became_dead_letters_are_not_worth_sending_again(recorder: Recorder) -> None:
    def fail(event: Event) -> None:
        raise ValueError("never")

    def broken(data: bytes) -> list[Event]:
        raise RuntimeError("cannot")

    hub = Hub(runtime="inline").ingestor(broken, source="broken").middleware(fail).emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.http_address)
        answer = post(address, b'{"id": "a"}')
        assert (answer.status, answer.codes) == (422, ["MIDDLEWARE_ERROR"])
        answer = post(address, b"x", "text/plain", query="?source=broken")
        assert (answer.status, answer.codes) == (500, ["INGESTOR_ERROR"])


@pytest.mark.parametrize("wrong", ["nowhere", "127.0.0.1:99999", "256.1.1.1:0", "127.0.0.1:x"])
def test_an_address_that_cannot_be_opened_is_named(recorder: Recorder, wrong: str) -> None:
    with pytest.raises(SettingError, match="http_addr=") as caught:
        Hub(runtime="inline").emitter(recorder).start(http_addr=wrong)
    assert repr(wrong) in str(caught.value)


def test_a_port_in_use_is_named_and_no_other_door_stays_open(pipeline: Pipeline, tmp_path: Path) -> None:
    taken = str(pipeline.http_address)
    free = connect(taken)
    own = free.getsockname()
    free.close()
    with pytest.raises(SettingError, match="in use"):
        Hub(runtime="inline").emitter(Recorder(tmp_path / "x")).start(grpc_addr=f"127.0.0.1:{own[1]}", http_addr=taken)
    with pytest.raises(OSError):  # noqa: PT011 - refused
        connect(f"127.0.0.1:{own[1]}")


def test_it_can_be_open_on_a_unix_socket(recorder: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with Hub(runtime="inline").emitter(recorder).start(http_addr=f"unix:{path}") as pipeline:
        assert pipeline.http_address == f"unix:{path}"
        assert curl("x", "/health", "--unix-socket", str(path)).status == 200


def _until(ask: Any, status: int) -> Answer:
    deadline = time.monotonic() + 30
    while (answer := ask()).status != status:
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    return answer  # type: ignore[no-any-return]


def _drip(connection: socket.socket, first: bytes, then: bytes) -> None:
    connection.sendall(first)
    for _ in range(300):
        time.sleep(0.05)
        connection.sendall(then)


def _ends(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
