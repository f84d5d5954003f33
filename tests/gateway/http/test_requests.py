"""Requests, heads and connections over HTTP: what is none, what does not come, and how many there may be."""

from __future__ import annotations

import re
import socket
import struct
import time

import pytest
from google.protobuf import json_format

from polku import Pipeline
from polku.v1.gateway_pb2 import HealthResponse
from tests.gateway.http.conftest import LIMITS
from tests.gateway.http_client import connect, curl, parse, post, read_to_end


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


def test_a_client_of_http_1_0_is_sent_no_100(address: str) -> None:
    body = b'{"id": "old"}'
    with connect(address) as client:
        head = b"POST /v1/events HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert read_to_end(client).startswith(b"HTTP/1.0 200")


def test_a_client_that_leaves_amid_a_body_is_no_fault_of_ours(address: str, caplog: pytest.LogCaptureFixture) -> None:
    for reset in (False, True):
        with connect(address) as client:
            client.sendall(_HEAD + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert post(address, b'{"id": "a"}', "application/json").ids == ["a"]
    assert curl(address, "/health").status == 200
    assert "failed" not in caplog.text


def test_a_cloudevent_with_a_header_twice_is_refused(address: str) -> None:
    headers = [f"ce-{name}: 1" for name in ("id", "source", "type")] + ["ce-specversion: 1.0", "CE-Id: 2"]
    answer = post(address, b"", "text/plain", *[word for header in headers for word in ("-H", header)])
    assert (answer.status, answer.codes) == (400, ["INVALID_RECORD"])
    assert answer.message == "ce-id='2': stands twice in the head; leave one of them out"


_HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"\x00\x01\r\n\r\n", 400, "head: it is not a valid HTTP/1.1 request"),
        (_HEAD + b"a b: secret\r\n\r\n", 400, ": 'a b'); see RFC 9112"),
        (_HEAD + b"a: secret\x01\r\n\r\n", 400, ": 'a'); see RFC 9112"),
        (_HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\n", 400, "Content-Length"),
        (_HEAD + b"Content-Length: +3\r\n\r\n", 400, "Content-Length"),
        (_HEAD.replace(b"Host: x\r\n", b"") + b"\r\n", 400, "'Host'"),
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
    assert "secret" not in answer.message
    assert (answer.headers["server"], answer.headers["content-type"]) == ("polku", "application/json")


def test_a_path_that_is_not_there_is_answered_with_those_that_are(address: str) -> None:
    message = curl(address, "/nothing").message
    assert message.startswith("GET /nothing: Not Found; there are POST /v1/events, ")
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        assert path in message


def test_no_answer_names_versions(address: str) -> None:
    for path, body in (("/health", None), ("/nothing", None), ("/v1/events", b"{}"), ("/v1/events", b"no")):
        assert curl(address, path, body=body).headers["server"] == "polku"


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["at once", "after the answer"])
def test_the_rest_of_a_body_that_was_not_read_is_no_head(address: str, expect: bytes) -> None:
    with connect(address) as client:
        client.sendall(_HEAD + b"Content-Type: text/nothing\r\nContent-Length: 180000\r\n" + expect + b"\r\n")
        answers = client.recv(65_536) if expect else b""
        client.sendall(b"x" * 180_000)
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers += read_to_end(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"415", b"200"]


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


def _drip(connection: socket.socket, first: bytes, then: bytes) -> None:
    connection.sendall(first)
    for _ in range(300):
        time.sleep(0.05)
        connection.sendall(then)
