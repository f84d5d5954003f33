"""One small message of gRPC, much work: on both servers."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest

from polku.v1.gateway_pb2 import Ack
from tests.attacks.lab import MB, Cost, Gateway, costs

LIMIT = 4 * 1024 * 1024


def field(number: int, data: bytes) -> bytes:
    head, size = bytearray([number << 3 | 2]), len(data)
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + data


EMPTY = b"\x0a\x00" * 10_000


class Message(NamedTuple):
    """A message, the code that it is refused with, and what it may cost, in MB and seconds of CPU."""

    data: bytes
    code: str
    megabytes: int
    seconds: float


def metadata() -> bytes:
    return b"".join(field(5, field(1, b"%x" % number)) for number in range(400_000))


LONG = b"s" * 200_000
UNARY = {
    "a long source for 10,000 events": lambda: Message(field(1, LONG) + field(6, EMPTY), "INVALID_EVENT", 16, 0.3),
    "a long cluster for 10,000 events": lambda: Message(field(2, LONG) + field(6, EMPTY), "INVALID_EVENT", 16, 0.3),
    "a long source for raw bytes": lambda: Message(field(1, LONG * 20) + field(3, b"x"), "INVALID_EVENT", 64, 0.5),
    "two million events": lambda: Message(field(6, b"\x0a\x00" * 2_000_000), "TOO_MANY_EVENTS", 192, 1.0),
    "a million routes": lambda: Message(field(4, b"\x3a\x01a" * 1_300_000), "INVALID_EVENT", 96, 1.0),
    "one id 10,000 times": lambda: Message(field(6, field(1, field(1, b"i" * 250)) * 10_000), "DUPLICATE_ID", 64, 2.0),
    "400,000 entries of metadata": lambda: Message(field(4, metadata()), "METADATA_LIMIT", 160, 2.0),
}


def send(channel: grpc.Channel) -> Any:
    return channel.unary_unary("/polku.v1.Gateway/SendEvent", None, None)


def stream(channel: grpc.Channel) -> Any:
    return channel.stream_stream("/polku.v1.Gateway/StreamEvents", None, None)


def code_of(call: Any, message: bytes) -> str:
    """Make a unary call; return the code that it is refused with."""
    try:
        (code,) = {error.code for error in Ack.FromString(call(message, timeout=30)).errors}
    except grpc.RpcError as error:
        return str(error.details()).partition(":")[0]
    return str(code)


@pytest.mark.parametrize("name", UNARY)
def test_one_call_costs_little(gateway: Gateway, name: str) -> None:
    message = UNARY[name]()
    cost = Cost(message.megabytes * MB, message.seconds)
    with grpc.insecure_channel(gateway.grpc) as channel, costs(gateway, cost):
        assert code_of(send(channel), message.data) == message.code


BATCHES = {
    "two million events": lambda: Message(field(4, b"\x0a\x00" * 2_000_000), "TOO_MANY_EVENTS", 192, 1.0),
    "two million fields": lambda: Message(b"\x22\x00" * 2_000_000, "MALFORMED", 32, 0.5),
    "a long source for 10,000 events": lambda: Message(field(1, LONG) + field(4, EMPTY), "INVALID_EVENT", 16, 0.3),
}


@pytest.mark.parametrize("name", BATCHES)
def test_one_batch_costs_little(gateway: Gateway, name: str) -> None:
    message = BATCHES[name]()
    cost = Cost(message.megabytes * MB, message.seconds)
    with grpc.insecure_channel(gateway.grpc) as channel, costs(gateway, cost):
        (answer,) = stream(channel)(iter([message.data]), timeout=30)
        assert {error.code for error in Ack.FromString(answer).errors} == {message.code}


def test_compressed_batches_are_bounded_before_they_are_plain(gateway: Gateway) -> None:
    bomb = field(3, field(1, bytes(12 * LIMIT // 10)))
    assert len(gzip.compress(bomb)) < 10_000

    def batches() -> Iterator[bytes]:
        for _ in range(16):
            yield bomb

    with (
        grpc.insecure_channel(gateway.grpc, compression=grpc.Compression.Gzip) as channel,
        costs(gateway, Cost(160 * MB, 2.0)),
    ):
        answers = list(stream(channel)(batches(), timeout=30))
        assert {error.code for answer in answers for error in Ack.FromString(answer).errors} == {"TOO_LARGE"}


def test_large_events_without_a_way_are_remembered_up_to_a_bound(gateway: Gateway) -> None:
    message = field(1, b"s") + field(4, field(7, b"nobody") + field(6, bytes(3_900_000)))
    with grpc.insecure_channel(gateway.grpc) as channel, costs(gateway, Cost(256 * MB, 4.0)):
        call = send(channel)
        for _ in range(30):
            (error,) = Ack.FromString(call(message, timeout=30)).errors
            assert error.code == "UNROUTABLE"


def test_raw_bytes_of_any_source_write_little_log(gateway: Gateway) -> None:
    before = gateway.log.stat().st_size
    with grpc.insecure_channel(gateway.grpc) as channel, costs(gateway, Cost(32 * MB, 4.0)):
        call = send(channel)
        calls = [call.future(field(1, b"source %d" % n) + field(3, b"x" * 3_000), timeout=30) for n in range(300)]
        assert {done.code() for done in calls if done.exception() is not None} == {grpc.StatusCode.INTERNAL}
    assert gateway.log.stat().st_size - before < 50_000
