"""Clients that open, begin and hold, and say nothing: who comes after them is served."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import time
from collections.abc import Iterator

import grpc
import hpack
import pytest

from polku import Event
from polku.http2 import frames as f
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.attacks.lab import MB, Cost, Gateway, costs

STRANGER = "127.0.0.2"
ALONE = [("grpc.use_local_subchannel_pool", 1)]
BATCH = IngestBatch(events=EventPayload(events=[Event(event_type="t")]))


@contextlib.contextmanager
def many(address: str, count: int, begin: bytes = b"", source: str = STRANGER) -> Iterator[list[socket.socket]]:
    """Open connections from one address, each of which says something."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(
                stack.enter_context(socket.create_connection((host, int(port)), 10, source_address=(source, 0)))
            )
            if begin:
                with contextlib.suppress(OSError):
                    clients[-1].sendall(begin)
        yield clients


def request(path: str, *extra: tuple[str, str]) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    return bytes(hpack.Encoder().encode([*fields, *extra]))


def greeting(*streams: bytes) -> bytes:
    return f.PREFACE + f.settings({}) + b"".join(streams)


def send_event(gateway: Gateway) -> list[str]:
    with grpc.insecure_channel(gateway.grpc, ALONE) as channel:
        ack = gateway_pb2_grpc.GatewayStub(channel).SendEvent(IngestEvent(event=Event(event_type="t")), timeout=30)
    return list(ack.event_ids)


def get_health(gateway: Gateway) -> int:
    client = http.client.HTTPConnection(gateway.http, timeout=30)
    client.request("GET", "/health")
    status = client.getresponse().status
    client.close()
    return status


@pytest.mark.parametrize("begin", [b"", greeting(), f.PREFACE[:10]], ids=["nothing", "a greeting", "half a greeting"])
def test_silent_connections_keep_nobody_out(ours: Gateway, begin: bytes) -> None:
    with costs(ours, Cost(32 * MB, 2.0)), many(ours.grpc, 600, begin):
        assert send_event(ours)
        assert get_health(ours) == 200


@pytest.mark.parametrize("begin", [b"", b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
def test_half_sent_heads_keep_nobody_out(ours: Gateway, begin: bytes) -> None:
    with costs(ours, Cost(32 * MB, 2.0)), many(ours.http, 600, begin):
        assert get_health(ours) == 200
        assert send_event(ours)


def test_not_even_those_of_their_own_address_for_long(ours: Gateway) -> None:
    with costs(ours, Cost(32 * MB, 2.0)), many(ours.http, 400, source="127.0.0.1"):
        deadline = time.monotonic() + 15
        while get_health(ours) != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_silent_streams_keep_nobody_out(ours: Gateway) -> None:
    block = request("/polku.v1.Gateway/StreamEvents")
    opened = [f.frame(f.HEADERS, f.END_HEADERS, number, block) for number in range(1, 1201, 2)]
    with costs(ours, Cost(48 * MB, 2.0)), many(ours.grpc, 2, greeting(*opened)):
        time.sleep(0.2)
        with grpc.insecure_channel(ours.grpc, ALONE) as channel:
            answers = gateway_pb2_grpc.GatewayStub(channel).StreamEvents(iter([BATCH]), timeout=30)
            assert [len(ack.event_ids) for ack in answers] == [1]


def test_messages_that_never_end_are_bounded(ours: Gateway) -> None:
    block = request("/polku.v1.Gateway/SendEvent")
    begun = struct.pack(">BI", 0, 15 << 20) + bytes(15_000)
    pieces = [
        f.frame(f.HEADERS, f.END_HEADERS, number, block) + f.frame(f.DATA, 0, number, begun)
        for number in range(1, 121, 2)
    ]
    more = [f.frame(f.DATA, 0, number, bytes(16_000)) for _ in range(30) for number in range(1, 121, 2)]
    with costs(ours, Cost(160 * MB, 2.0)), many(ours.grpc, 2, greeting(*pieces)) as clients:
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(b"".join(more))


@pytest.mark.parametrize("seconds", [0.3])
def test_lists_of_headers_that_unfold_are_bounded(ours: Gateway, seconds: float) -> None:
    large = hpack.Encoder().encode([("a", "b" * 4000)])
    bomb = request("/polku.v1.Gateway/SendEvent") + bytes(large) + b"\xbe" * 12_000
    with costs(ours, Cost(32 * MB, 1.0)), many(ours.grpc, 20, greeting(f.frame(f.HEADERS, 5, 1, bomb))) as clients:
        for client in clients:
            client.settimeout(seconds)
            with contextlib.suppress(OSError):
                while client.recv(65_536):
                    pass
