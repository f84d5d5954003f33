"""Every form of good input over HTTP, from real clients, becomes events."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import aiohttp
import pytest
from backports import zstd
from cloudevents.core.bindings import http as cloudevents_http
from cloudevents.core.v1.event import CloudEvent
from google.protobuf import json_format

from polku import Event, Hub, IngestContext
from polku.v1.gateway_pb2 import Ack, EventPayload
from tests.gateway.http.conftest import NDJSON, PROTOBUF
from tests.gateway.http_client import post
from tests.support.recorder import Recorder


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
