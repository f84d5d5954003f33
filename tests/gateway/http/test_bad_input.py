"""What a body may have wrong costs itself alone, and the answer names it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
from typing import Any

import pytest
from backports import zstd

from polku import Pipeline
from tests.gateway.http.conftest import LIMITS, NDJSON, PROTOBUF
from tests.gateway.http_client import curl, post
from tests.support.recorder import Recorder


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


@pytest.mark.parametrize("path", ["/v1/events", "/v1/logs"])
@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate, Chunked"])
def test_a_body_that_is_more_than_cut_into_chunks_on_its_way_is_501(address: str, path: str, coding: str) -> None:
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    headers = {"Content-Type": "application/json", "Transfer-Encoding": coding}
    with contextlib.closing(connection):
        connection.request("POST", path, b"2\r\n{}\r\n0\r\n\r\n", headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    assert answer.status == 501, text
    assert "is not supported; compress by Content-Encoding" in text
    assert answer.headers["Connection"] == "close"


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


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
