"""One small request of OTLP, much work: over gRPC on both servers, and over HTTP."""

from __future__ import annotations

import gzip
import http.client
from typing import Any, NamedTuple

import grpc
import pytest

from polku.otlp.signals import LOGS
from tests.attacks.lab import MB, Cost, Gateway, costs
from tests.attacks.test_messages import field

LIMIT = 4 * 1024 * 1024


class Request(NamedTuple):
    """A request, what it is answered with over HTTP, and what it may cost, in MB and seconds of CPU."""

    body: bytes
    status: int
    megabytes: int
    seconds: float


def request(resource: bytes, *scopes: bytes) -> bytes:
    return field(1, resource + b"".join(field(2, scope) for scope in scopes))


MANY = field(1, field(1, b"") * 16_000)  # of a resource: 32 kB of empty ones
RECORDS = field(2, b"") * 9_000
NAMED = field(1, field(1, field(1, b"service.name") + field(2, field(1, b"n" * 60_000))))
DEEP = b""
for _ in range(90):
    DEEP = field(5, field(1, DEEP))
PROTOBUF = {
    "two million resources": lambda: Request(b"\x0a\x00" * (LIMIT // 2 - 4), 413, 48, 1.0),
    "two million scopes": lambda: Request(field(1, b"\x12\x00" * (LIMIT // 2 - 8)), 413, 48, 1.0),
    "two million records": lambda: Request(field(1, field(2, b"\x12\x00" * (LIMIT // 2 - 16))), 413, 48, 1.0),
    "a resource of 32 kB for 9,000 records": lambda: Request(request(MANY, RECORDS), 413, 48, 0.7),
    "a resource of 32 kB for 9,000 scopes": lambda: Request(request(MANY, *[field(2, b"")] * 9_000), 413, 48, 0.7),
    "a resource of 4 MB": lambda: Request(request(field(1, field(1, b"") * 2_000_000), RECORDS), 413, 96, 1.0),
    "a long name for 200 records": lambda: Request(request(NAMED, field(2, b"") * 200), 200, 128, 1.0),
    "100 resources of 32 kB": lambda: Request(b"".join([request(MANY, field(2, b""))] * 100), 200, 96, 2.0),
    "two million attributes": lambda: Request(request(b"", field(2, field(6, b"") * 2_000_000)), 200, 96, 1.0),
    "200 kB of attributes each": lambda: Request(request(b"", field(2, field(6, b"") * 100_000) * 20), 200, 160, 2.5),
    "9,000 records of 90 levels": lambda: Request(request(b"", field(2, field(5, DEEP[:400])) * 9_000), 200, 160, 2.5),
}
JSON = {
    "a million objects": lambda: Request(b'{"resourceLogs":[' + b"{}," * 1_300_000 + b"{}]}", 413, 64, 1.0),
    "190,000 objects": lambda: Request(b'{"resourceLogs":[' + b"{}," * 190_000 + b"{}]}", 413, 128, 2.5),
    "brackets two million deep": lambda: Request(b"[" * 2_000_000, 413, 32, 1.0),
    "one name 400,000 times": lambda: Request(b"{" + b'"a":1,' * 600_000 + b'"a":1}', 413, 64, 1.0),
    "two million numbers": lambda: Request(b'{"resourceLogs":[' + b"1," * 2_000_000 + b"1]}", 400, 64, 1.5),
}


@pytest.mark.parametrize("name", PROTOBUF)
def test_one_request_costs_little(ours: Gateway, name: str) -> None:
    post(ours, PROTOBUF[name](), "application/x-protobuf")


@pytest.mark.parametrize("name", JSON)
def test_one_request_of_json_costs_little(ours: Gateway, name: str) -> None:
    post(ours, JSON[name](), "application/json")


def post(gateway: Gateway, attack: Request, kind: str) -> None:
    with costs(gateway, Cost(attack.megabytes * MB, attack.seconds)):
        client = http.client.HTTPConnection(gateway.http, timeout=30)
        headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
        client.request("POST", LOGS.path, gzip.compress(attack.body, 1), headers)
        answer = client.getresponse()
        text = answer.read()
        client.close()
    assert answer.status == attack.status, text[:300]
    assert len(text) < 4_000


def test_one_call_costs_little(gateway: Gateway) -> None:
    with (
        grpc.insecure_channel(gateway.grpc, compression=grpc.Compression.Gzip) as channel,
        costs(gateway, Cost(96 * MB, 1.0)),
    ):
        call: Any = channel.unary_unary(LOGS.method, bytes, bytes)
        with pytest.raises(grpc.RpcError, match="TOO_LARGE: request: its resources, copied into each record"):
            call(request(MANY, RECORDS), timeout=30)


def test_what_is_refused_in_part_is_remembered_up_to_a_bound(ours: Gateway) -> None:
    late = field(2, b"\x09" + b"\xff" * 8)  # a time that cannot be
    body = request(field(1, field(1, field(1, b"a") + field(2, field(1, b"x" * 1_000)))), late * 9_000)
    with costs(ours, Cost(200 * MB, 8.0)):
        client = http.client.HTTPConnection(ours.http, timeout=30)
        for _ in range(5):
            client.request("POST", LOGS.path, body, {"Content-Type": "application/x-protobuf"})
            answer = client.getresponse()
            assert answer.status == 200
            assert len(answer.read()) < 4_000
        client.close()
