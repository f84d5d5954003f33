"""One connection, byte by byte: requests, flow control, and every limit with its answer (RFC 9113)."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode
from polku.http2.limits import ConnectionLimits
from tests.http2.peer import Client, Echo, Frame, Transport, data


@pytest.fixture
async def client() -> Client:
    client = Client()
    client.greet()
    return client


def last(client: Client) -> Frame:
    return client.read()[-1]


def window(number: int, credit: int) -> bytes:
    return f.window_update(number, credit)


async def test_requests_of_one_read_are_answered_in_one_write(client: Client) -> None:
    client.send(b"".join(client.request(number, b"%d" % number) for number in (1, 3, 5)))
    assert client.connection.whole == [1, 3, 5]
    assert client.answers() == {1: b"1", 3: b"3", 5: b"5"}
    assert client.connection.open_streams == 0


@given(cuts=st.sets(st.integers(1, 2_000)), sizes=st.lists(st.integers(0, 300), min_size=1, max_size=5))
def test_the_same_bytes_in_any_pieces_are_the_same_requests(cuts: set[int], sizes: list[int]) -> None:
    async def feed(pieces: set[int]) -> dict[int, bytes]:
        client = Client()
        wire = f.PREFACE + f.settings({})
        for place, size in enumerate(sizes):
            wire += client.request(2 * place + 1, b"x" * size) + f.frame(f.PING, 0, 0, b"12345678")
        places = [0, *sorted(cut for cut in pieces if cut < len(wire)), len(wire)]
        for start, stop in itertools.pairwise(places):
            client.send(wire[start:stop])
        assert client.connection.open_streams == 0
        bodies = client.answers()
        assert {number: bodies.get(number, b"") for number in client.connection.bodies} == client.connection.bodies
        return client.connection.bodies

    expected = {2 * place + 1: b"x" * size for place, size in enumerate(sizes)}
    assert asyncio.run(feed(set())) == asyncio.run(feed(cuts)) == expected


async def test_a_header_block_may_come_in_pieces_with_padding_and_priority(client: Client) -> None:
    block = client.head(fields=[(b"x-long", b"y" * 3_000)])
    padded = bytes((3,)) + b"\0\0\0\0\x10" + block[:100] + b"\0\0\0"
    client.send(f.frame(f.HEADERS, f.PADDED | f.WITH_PRIORITY, 1, padded))
    client.send(f.frame(f.CONTINUATION, 0, 1, block[100:200]) + f.frame(f.CONTINUATION, f.END_HEADERS, 1, block[200:]))
    client.send(f.frame(f.DATA, f.PADDED | f.END_STREAM, 1, bytes((2,)) + b"body" + b"\0\0"))
    assert client.answers() == {1: b"body"}


async def test_a_repeated_header_block_is_read_again_once_the_table_has_changed(client: Client) -> None:
    """The same bytes mean something else when another entry stands in front of the table."""
    client.send(client.request(1, b"a"))  # puts :path and :authority into the table
    block = client.head()  # indexes alone
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 3, block) + data(3, b"b", end=True))
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 5, block) + data(5, b"c", end=True))
    assert client.connection.bodies == {1: b"a", 3: b"b", 5: b"c"}
    newer = b"".join(b"\x44" + bytes((len(path),)) + path for path in (b"/later", b"/other"))  # two more :path entries
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 7, newer[:8] + b"\x83\x86") + f.rst_stream(7, ErrorCode.CANCEL))
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 9, block))
    assert client.connection.streams[9].head != b"/echo"


async def test_an_answer_waits_for_windows_and_comes_whole() -> None:
    client = Client()
    client.greet({f.INITIAL_WINDOW_SIZE: 10})
    client.send(client.request(1, b"a" * 25) + client.request(3, b"b" * 15))
    bodies = client.answers()
    assert bodies == {1: b"a" * 10, 3: b"b" * 10}
    client.send(window(1, 5))
    assert client.answers() == {1: b"a" * 5}
    client.send(f.settings({f.INITIAL_WINDOW_SIZE: 20}))
    assert client.answers() == {1: b"a" * 10, 3: b"b" * 5}
    assert client.connection.open_streams == 0


async def test_streams_share_the_window_of_the_connection() -> None:
    client = Client()
    client.greet({f.INITIAL_WINDOW_SIZE: 200_000})
    client.send(client.request(1, b"a" * 60_000) + client.request(3, b"b" * 60_000))
    assert {number: len(body) for number, body in client.answers().items()} == {1: 60_000, 3: 5_535}
    client.send(window(0, 100_000))
    assert {number: len(body) for number, body in client.answers().items()} == {3: 54_465}


async def test_data_waits_while_the_socket_is_full_and_pings_are_answered(client: Client) -> None:
    client.connection.pause_writing()
    client.send(client.request(1, b"a") + f.frame(f.PING, 0, 0, b"12345678"))
    assert [frame.kind for frame in client.read() if frame.kind != f.HEADERS] == [f.PING]
    client.connection.resume_writing()
    assert client.answers() == {1: b"a"}


async def test_what_is_not_consumed_gives_the_peer_no_credit() -> None:
    client = Client(ConnectionLimits(stream_window=1_000, connection_window=70_000))
    client.greet()
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/later")) + data(1, b"x" * 900))
    assert client.read() == []
    stream = client.connection.streams[1]
    client.connection.consumed(stream, 900)
    client.connection._outbox.flush()
    (update,) = client.read()
    assert (update.kind, update.number, int.from_bytes(update.payload, "big")) == (f.WINDOW_UPDATE, 1, 900)
    client.send(data(1, b"x" * 1_001))
    assert last(client).code is ErrorCode.FLOW_CONTROL_ERROR


async def test_more_than_the_connection_s_window_ends_it() -> None:
    client = Client(ConnectionLimits(stream_window=60_000, connection_window=70_000))
    client.greet()
    for number in (1, 3):
        client.send(f.frame(f.HEADERS, f.END_HEADERS, number, client.head(b"/later")) + data(number, b"x" * 40_000))
    assert last(client).code is ErrorCode.FLOW_CONTROL_ERROR
    assert client.transport.is_closing


async def test_an_early_answer_ends_the_request(client: Client) -> None:
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/early")))
    assert [(frame.kind, frame.number) for frame in client.read()] == [
        (f.HEADERS, 1),
        (f.HEADERS, 1),
        (f.RST_STREAM, 1),
    ]
    client.send(data(1, b"it was sent before the answer came"))
    assert client.read() == []


async def test_a_stream_that_the_peer_resets_is_gone(client: Client) -> None:
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/later")))
    client.send(f.rst_stream(1, ErrorCode.CANCEL))
    assert client.connection.gone == [1]
    assert client.connection.open_streams == 0


async def test_a_drain_lets_come_what_was_sent_and_ends_with_the_last_answer(client: Client) -> None:
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/later")) + data(1, b"a", end=True))
    client.connection.drain()
    client.send(client.request(3, b"sent before"))
    client.connection.refuse_new()
    client.send(client.request(5, b"too late"))
    client.connection.release(client.connection.streams[1])
    written = client.read()
    bodies = {frame.number: frame.payload for frame in written if frame.kind == f.DATA}
    assert bodies == {1: b"a", 3: b"sent before"}
    assert [int.from_bytes(frame.payload[:4], "big") for frame in written if frame.kind == f.GOAWAY] == [
        f.STREAM_BITS,
        3,
    ]
    assert [(frame.number, frame.code) for frame in written if frame.kind == f.RST_STREAM] == [
        (5, ErrorCode.REFUSED_STREAM)
    ]
    assert client.transport.is_closing


async def test_a_lost_connection_tells_every_stream(client: Client) -> None:
    for number in (1, 3):
        client.send(f.frame(f.HEADERS, f.END_HEADERS, number, client.head(b"/later")))
    client.connection.connection_lost(None)
    assert client.connection.gone == [1, 3]


async def test_one_request_too_many_is_refused_and_may_be_sent_again() -> None:
    client = Client(ConnectionLimits(streams=2))
    client.greet()
    for number in (1, 3, 5):
        client.send(f.frame(f.HEADERS, f.END_HEADERS, number, client.head(b"/later")))
    refused = last(client)
    assert (refused.kind, refused.number, refused.code) == (f.RST_STREAM, 5, ErrorCode.REFUSED_STREAM)


LIMITS = ConnectionLimits(resets=20, empty_frames=20, control_frames=20, header_block=2_000, unsent=10_000)


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


async def test_a_silent_peer_is_asked_for_a_sign_of_life(client: Client) -> None:
    connection, began = client.connection, client.connection._began
    connection.check_times(began + 1)
    connection.check_times(began + 60)
    assert client.read() == []
    connection.check_times(began + 62)
    (ping,) = client.read()
    assert (ping.kind, ping.flags) == (f.PING, 0)
    connection.check_times(began + 70)
    assert client.read() == []  # one at a time
    client.send(f.frame(f.PING, f.ACK, 0, ping.payload))
    connection.check_times(began + 100)
    assert not client.transport.is_closing
    connection.check_times(began + 161)
    assert [frame.kind for frame in client.read()] == [f.PING]


async def test_a_peer_that_is_gone_is_noticed(client: Client) -> None:
    connection, began = client.connection, client.connection._began
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/later")))
    for second in range(1, 85):
        connection.check_times(began + second)
        if client.transport.is_closing:
            break
    assert second in (82, 83)  # sums of seconds are rounded
    goaway = last(client)
    assert (goaway.kind, goaway.code) == (f.GOAWAY, ErrorCode.NO_ERROR)
    assert b"no answer to a PING within 20 s" in goaway.payload
    connection.check_times(connection._touched + 11)
    assert client.transport.is_aborted
    connection.connection_lost(None)
    assert client.connection.gone == [1]


async def test_requests_between_pings_are_progress() -> None:
    client = Client(LIMITS)
    client.greet()
    for number in range(1, 100, 2):
        client.send(f.frame(f.PING, 0, 0, b"12345678") * 15 + client.request(number, b"x"))
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


async def test_a_silent_peer_is_closed_in_time() -> None:
    client = Client()
    transport = client.transport
    client.connection.check_times(client.connection._began + 9)
    assert not transport.is_closing
    client.connection.check_times(client.connection._began + 11)
    assert client.transport.is_closing
    assert client.transport.written == b""  # whoever that is may not speak HTTP/2


async def test_the_time_of_a_handshake_does_not_count_for_the_preface() -> None:
    connection = Echo()
    connection._began -= 100  # it is made before the handshake
    transport = Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.check_times(time.monotonic() + 5)
    assert not transport.is_closing


async def test_a_header_block_that_stays_half_is_closed_in_time(client: Client) -> None:
    client.send(f.frame(f.HEADERS, 0, 1, b"\x83"))
    client.connection.check_times(client.connection._block_began + 11)
    assert "header block" in last(client).payload.decode()


async def test_a_connection_that_is_closed_and_not_read_is_cut_off(client: Client) -> None:
    client.connection.fail(ErrorCode.NO_ERROR, "")
    client.connection.check_times(client.connection._touched + 9)
    assert not client.transport.is_aborted
    client.connection.check_times(client.connection._touched + 11)
    assert client.transport.is_aborted


async def test_an_idle_connection_is_closed_where_that_is_wanted() -> None:
    client = Client(ConnectionLimits(idle_seconds=5))
    client.greet()
    client.send(f.frame(f.HEADERS, f.END_HEADERS, 1, client.head(b"/later")))
    client.connection.check_times(client.connection._touched + 100)
    assert not client.transport.is_closing  # a call is open
    client.send(f.rst_stream(1, ErrorCode.CANCEL))
    client.connection.check_times(client.connection._touched + 100)
    assert last(client).code is ErrorCode.NO_ERROR
    assert client.transport.is_closing


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
