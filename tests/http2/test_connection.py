"""One connection, byte by byte: requests, flow control, and every limit with its answer (RFC 9113)."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode
from polku.http2.limits import ConnectionLimits
from tests.http2.peer import Client, data, last, window


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
