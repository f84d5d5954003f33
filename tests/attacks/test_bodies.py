"""One small body of HTTP, much work."""

from __future__ import annotations

import gzip
import http.client
import json
from typing import NamedTuple

import pytest
from backports import zstd

from tests.attacks.lab import MB, Cost, Gateway, costs

LIMIT = 4 * 1024 * 1024
MEMBER, FRAME = gzip.compress(b""), zstd.compress(b"")
SKIPPED = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"


def names(count: int) -> bytes:
    return b",".join(b'"%06x":""' % number for number in range(count))


class Body(NamedTuple):
    """A body, what it is answered with, and what it may cost, in MB and seconds of CPU."""

    content: bytes
    status: int
    megabytes: int
    seconds: float
    kind: str = "application/json"
    encoding: str = "gzip"


def packed(content: bytes, status: int, megabytes: int, seconds: float, kind: str = "application/json") -> Body:
    return Body(gzip.compress(content, 1), status, megabytes, seconds, kind)


BATCH = "application/cloudevents-batch+json"
BODIES = {
    "empty members of gzip": lambda: Body(MEMBER * (MB // len(MEMBER)) + gzip.compress(b"{}"), 400, 32, 0.5),
    "empty frames of zstd": lambda: Body(FRAME * (MB // len(FRAME)) + FRAME, 400, 32, 0.5, encoding="zstd"),
    "frames of zstd to skip": lambda: Body(SKIPPED * (MB // len(SKIPPED)) + FRAME, 400, 32, 0.5, encoding="zstd"),
    "a bomb": lambda: packed(bytes(100 * MB), 413, 32, 0.5),
    "a name that appears twice": lambda: packed(b'{"metadata":{%s,"%06x":""}}' % (names(30_000), 29_999), 400, 48, 1.5),
    "two million numbers": lambda: packed(b"[" + b"1," * 2_000_000 + b"1]", 400, 48, 1.0),
    "two million numbers without an end": lambda: packed(b"[" + b"1," * 2_000_000, 400, 48, 1.0),
    "a million empty objects": lambda: packed(b"[" + b"{}," * 1_300_000 + b"{}]", 413, 64, 1.5),
    "brackets two million deep": lambda: packed(b"[" * 2_000_000, 400, 32, 1.0),
    "brackets in an object": lambda: packed(b'{"a":' * 700_000, 400, 32, 1.0),
    "one name 400,000 times": lambda: packed(b"{" + b'"id":"a",' * 400_000 + b'"id":"b"}', 400, 96, 2.5),
    "300,000 entries of metadata": lambda: packed(b'{"metadata":{%s}}' % names(300_000), 400, 160, 3.0),
    "blank lines": lambda: packed(b"\n" * (LIMIT - 1), 200, 48, 1.0, "application/x-ndjson"),
    "two million empty events": lambda: packed(b"\x0a\x00" * (LIMIT // 2 - 4), 413, 192, 1.0, "application/x-protobuf"),
    "a million empty CloudEvents": lambda: packed(b"[" + b"{}," * MB + b"{}]", 400, 64, 1.5, BATCH),
}


@pytest.mark.parametrize("name", BODIES)
def test_one_body_costs_little(ours: Gateway, name: str) -> None:
    body = BODIES[name]()
    with costs(ours, Cost(body.megabytes * MB, body.seconds)):
        client = http.client.HTTPConnection(ours.http, timeout=30)
        headers = {"Content-Type": body.kind, "Content-Encoding": body.encoding}
        client.request("POST", "/v1/events", body.content, headers)
        answer = client.getresponse()
        text = answer.read()
        client.close()
    assert answer.status == body.status
    assert len(text) < MB
    json.loads(text)
