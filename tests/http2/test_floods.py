"""What is wrong or too much on a connection ends it, with the right code and a name (RFC 9113)."""

from __future__ import annotations

import pytest

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode
from polku.http2.limits import ConnectionLimits
from tests.http2.peer import LIMITS, Client, data, last, window


async def test_more_than_the_connection_s_window_ends_it() -> None:
    client = Client(ConnectionLimits(stream_window=60_000, connection_window=70_000))
    client.greet()
    for number in (1, 3):
        client.send(f.frame(f.HEADERS, f.END_HEADERS, number, client.head(b"/later")) + data(number, b"x" * 40_000))
    assert last(client).code is ErrorCode.FLOW_CONTROL_ERROR
    assert client.transport.is_closing


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        pytest.param(
            lambda c, n: f.frame(f.HEADERS, f.END_HEADERS, n, c.head(b"/later")) + f.rst_stream(n, ErrorCode.CANCEL),
            "more than 20 streams were reset",
            id="rapid reset",
        ),
        pytest.param(lambda c, n: window(0, 1), "frames that bring nothing", id="small windows"),
        pytest.param(
            lambda c, n: f.frame(f.HEADERS, f.END_HEADERS, n, c.head(b"/later")) + window(n, 0),
            "more than 20 streams were reset",
            id="resets that it makes us send",
        ),
        pytest.param(
            lambda c, n: f.frame(f.HEADERS, f.END_HEADERS, n, c.encoder.encode([(b"x", b"y")])),
            "more than 20 streams were reset",
            id="malformed requests",
        ),
        pytest.param(lambda c, n: f.settings({}), "frames that bring nothing", id="settings"),
        pytest.param(lambda c, n: f.frame(f.SETTINGS, f.ACK, 0), "frames that bring nothing", id="settings acks"),
        pytest.param(lambda c, n: f.frame(f.PING, 0, 0, b"12345678"), "frames that bring nothing", id="ping"),
        pytest.param(lambda c, n: f.frame(f.PING, f.ACK, 0, b"12345678"), "frames that bring nothing", id="ping acks"),
        pytest.param(lambda c, n: f.goaway(0, ErrorCode.NO_ERROR), "frames that bring nothing", id="goaway"),
        pytest.param(
            lambda c, n: f.frame(f.PRIORITY, 0, 99, b"\0\0\0\0\0"), "frames that bring nothing", id="priority"
        ),
        pytest.param(lambda c, n: f.frame(0xEE, 0, 1, b"x"), "frames that bring nothing", id="unknown"),
    ],
)
async def test_a_flood_ends_the_connection_and_is_named(flood, reason: str) -> None:  # type: ignore[no-untyped-def]
    client = Client(LIMITS)
    client.greet()
    for number in range(1, 2 * 30, 2):
        client.send(flood(client, number))
        if client.transport.is_closing:
            break
    goaway = last(client)
    assert (goaway.kind, goaway.code) == (f.GOAWAY, ErrorCode.ENHANCE_YOUR_CALM)
    assert reason in goaway.payload.decode()


async def test_empty_data_without_end_is_a_flood() -> None:
    client = Client(LIMITS)
    client.greet()
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/later")))
    client.send(data(1, b"") * 30)
    assert last(client).code is ErrorCode.ENHANCE_YOUR_CALM


async def test_pings_of_a_peer_that_does_not_read_find_an_end() -> None:
    client = Client(ConnectionLimits(control_frames=20))
    client.greet()
    client.send(f.frame(f.PING, 0, 0, b"12345678") * 100)  # it reads: nothing to say against it
    assert not client.transport.is_closing
    client.connection.pause_writing()
    client.send(f.frame(f.PING, 0, 0, b"12345678") * 30)
    assert client.transport.is_closing


async def test_a_client_may_ping_for_as_long_as_it_likes() -> None:
    client = Client(LIMITS)
    client.greet()
    for second in range(60):
        client.send(f.frame(f.PING, 0, 0, b"12345678") * LIMITS.empty_frames_second)
        client.connection.check_times(client.connection._began + second)
    assert not client.transport.is_closing


async def test_answers_that_nobody_reads_find_an_end() -> None:
    client = Client(LIMITS)
    client.greet({f.INITIAL_WINDOW_SIZE: 0})
    client.send(b"".join(client.request(number, b"x" * 3_000) for number in (1, 3, 5, 7, 9)))
    goaway = last(client)
    assert goaway.code is ErrorCode.ENHANCE_YOUR_CALM
    assert "wait to be read" in goaway.payload.decode()


async def test_a_header_block_without_end_finds_one() -> None:
    client = Client(LIMITS)
    client.greet()
    client.send(f.frame(f.HEADERS, 0, 1, b"\x83"))
    for _ in range(30):
        client.send(f.frame(f.CONTINUATION, 0, 1, b"\0" * 100))
        if client.transport.is_closing:
            break
    assert last(client).code is ErrorCode.ENHANCE_YOUR_CALM


async def test_continuations_without_anything_in_them_find_an_end() -> None:
    client = Client(LIMITS)
    client.greet()
    client.send(f.frame(f.HEADERS, 0, 1, b"\x83"))
    client.send(f.frame(f.CONTINUATION, 0, 1, b"") * (LIMITS.empty_frames - 1))
    assert not client.transport.is_closing
    client.send(f.frame(f.CONTINUATION, 0, 1, b"") * 5)
    goaway = last(client)
    assert goaway.code is ErrorCode.ENHANCE_YOUR_CALM
    assert "frames that bring nothing" in goaway.payload.decode()


async def test_a_table_that_is_larger_than_was_allowed_ends_the_connection() -> None:
    larger = b"\x3f\x45"  # a table of 100 bytes (RFC 7541, section 6.3)
    for is_acknowledged in (False, True):  # until then the peer need not know the limit
        client = Client(ConnectionLimits(header_table=50))
        client.greet()
        if is_acknowledged:
            client.send(f.frame(f.SETTINGS, f.ACK, 0))
        smaller = b"\x20" if is_acknowledged else b""  # what the peer has to say first, once it knows
        client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, smaller + larger + client.head()) + data(1, b"a", end=True))
        assert client.transport.is_closing is is_acknowledged
    assert last(client).code is ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (f.frame(f.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.DATA, 0, 7, b"x"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 2, b"\x83"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS | f.PADDED, 1, b"\x09a"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.CONTINUATION, f.END_HEADERS, 1, b"\x83"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.PING, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
        (f.frame(f.SETTINGS, 0, 0, b"odd"), ErrorCode.FRAME_SIZE_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0, b"\0" * 6), ErrorCode.FRAME_SIZE_ERROR),
        (f.settings({f.INITIAL_WINDOW_SIZE: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
        (f.settings({f.MAX_FRAME_SIZE: 100}), ErrorCode.PROTOCOL_ERROR),
        (f.settings({f.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
        (window(0, 0), ErrorCode.PROTOCOL_ERROR),
        (window(0, f.LARGEST_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
        (f.rst_stream(0, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (f.rst_stream(9, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.PUSH_PROMISE, 0, 1, b"\0\0\0\2"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.GOAWAY, 0, 1, b"\0" * 8), ErrorCode.PROTOCOL_ERROR),
        (f.write_head(1 << 13, 0, f.DATA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (f.write_head(1 << 7, 0, f.SETTINGS, 0, 0), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
async def test_a_wrong_frame_ends_the_connection_with_the_right_code(
    client: Client, frame: bytes, code: ErrorCode
) -> None:
    client.send(frame)
    goaway = last(client)
    assert (goaway.kind, goaway.code) == (f.GOAWAY, code)
    assert client.transport.is_closing


async def test_what_comes_before_settings_ends_the_connection() -> None:
    client = Client()
    client.send(f.PREFACE + f.frame(f.PING, 0, 0, b"12345678"))
    assert last(client).code is ErrorCode.PROTOCOL_ERROR


async def test_data_without_end_for_a_closed_stream_finds_one() -> None:
    client = Client(ConnectionLimits(connection_window=70_000))
    client.greet()
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/early")))
    for _ in range(10):
        client.send(data(1, b"x" * 10_000))
    goaway = last(client)
    assert (goaway.kind, goaway.code) == (f.GOAWAY, ErrorCode.ENHANCE_YOUR_CALM)


async def test_a_header_block_that_is_too_large_is_told_the_limit_and_the_fix() -> None:
    reasons = []
    for frames in (f.frame(f.HEADERS, f.END_HEADERS, 1, bytes(3_000)), _in_pieces(3_000)):
        client = Client(LIMITS)
        client.greet()
        client.send(frames)
        (goaway,) = [frame for frame in client.read() if frame.kind == f.GOAWAY]
        reasons.append(goaway.payload[8:].decode())
    assert all(reason.endswith("the limit is 2000; send fewer or shorter fields") for reason in reasons), reasons


def _in_pieces(size: int) -> bytes:
    pieces = [f.frame(f.CONTINUATION, 0, 1, bytes(500)) for _ in range(size // 500)]
    return f.frame(f.HEADERS, 0, 1, bytes(500)) + b"".join(pieces)
