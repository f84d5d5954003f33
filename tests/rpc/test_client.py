"""The client's end of a connection, byte by byte: what servers may answer, and what they may not."""

from __future__ import annotations

import asyncio
import gzip
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode
from polku.http2.header_blocks import Field
from polku.rpc.messages import write_prefix
from polku.rpc.status import Status, StatusCode, percent_encoded
from tests.rpc.peer import HEAD, OK, Ear, Server, data, message


@pytest.fixture
async def server() -> Server:
    server = Server()
    server.read()
    return server


async def test_a_call_has_the_head_that_grpc_wants(server: Server) -> None:
    _, stream = server.call()
    (head,) = server.read()
    assert (head.kind, head.flags, head.number) == (f.HEADERS, f.END_HEADERS, stream.number)
    fields = dict(server.decoder.decode(head.payload, raw=True))
    assert fields[b":method"] == b"POST"
    assert fields[b":scheme"] == b"http"
    assert (fields[b":path"], fields[b":authority"]) == (b"/s/Talk", b"here:1")
    assert (fields[b"content-type"], fields[b"te"]) == (b"application/grpc", b"trailers")
    assert fields[b"user-agent"].startswith(b"polku/")


async def test_messages_come_in_order_and_the_end_with_its_status(server: Server) -> None:
    ear, stream = server.call()
    server.send(server.fields(1, HEAD), data(1, b"one", b"two"))
    server.send(data(1, b"three"), server.end(1))
    assert ear.messages == [b"one", b"two", b"three"]
    assert ear.status == Status(StatusCode.OK)
    assert server.connection.streams == {}
    frames = server.read()  # our half was open: the server wants no more of it
    assert frames[-1].kind == f.RST_STREAM
    await server.connection.write(stream, [b"late"])
    assert server.read() == []


async def test_a_call_that_we_have_ended_too_leaves_without_a_word(server: Server) -> None:
    ear, stream = server.call()
    await server.connection.write(stream, [b"a", b"", b"b"])
    server.connection.end(stream)
    sent = server.read()
    assert b"".join(frame.payload for frame in sent if frame.kind == f.DATA) == message(b"ab")
    assert sent[-1].flags == f.END_STREAM
    server.send(server.fields(1, HEAD), data(1, b"ok"), server.end(1))
    assert (ear.messages, ear.status) == ([b"ok"], Status(StatusCode.OK))
    assert server.read() == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (((b"grpc-status", b"14"), (b"grpc-message", b"full%21 %C3%A4")), Status(StatusCode.UNAVAILABLE, "full! ä")),
        (((b"grpc-status", b"16"),), Status(StatusCode.UNAUTHENTICATED, "")),
        (((b"grpc-status", b"99"),), Status(StatusCode.UNKNOWN, "the answer ends without a valid grpc-status")),
        (((b"grpc-status", b"9" * 5_000),), Status(StatusCode.UNKNOWN, "the answer ends without a valid grpc-status")),
        (((b"grpc-status", b"-1"),), Status(StatusCode.UNKNOWN, "the answer ends without a valid grpc-status")),
        (((b"x", b"y"),), Status(StatusCode.UNKNOWN, "the answer ends without a valid grpc-status")),
    ],
)
async def test_the_status_is_that_of_the_trailers(server: Server, fields: tuple[Field, ...], status: Status) -> None:
    for number, whole in ((1, False), (3, True)):
        ear, _ = server.call()
        if whole:  # "Trailers-Only"
            server.send(server.fields(number, (*HEAD, *fields), ends=True))
        else:
            server.send(server.fields(number, HEAD), server.end(number, *fields))
        assert ear.status == status


async def test_a_sentence_of_a_server_cannot_break_a_line_of_the_log(server: Server) -> None:
    ear, _ = server.call()
    server.send(server.fields(1, (*HEAD, (b"grpc-status", b"2"), (b"grpc-message", b"a%0Ab%FF%00")), ends=True))
    assert ear.status is not None
    assert ear.status.message == "a\\nb\ufffd\\x00"


@given(st.text())
def test_a_sentence_survives_its_encoding(text: str) -> None:
    from polku.rpc.status import percent_decoded

    clean = text.encode("utf-8", "replace").decode()
    encoded = percent_encoded(clean)
    assert encoded.isascii()
    assert percent_decoded(encoded) == clean


@pytest.mark.parametrize(
    ("http", "code"),
    [("401", "UNAUTHENTICATED"), ("403", "PERMISSION_DENIED"), ("404", "UNIMPLEMENTED"), ("503", "UNAVAILABLE"),
     ("429", "UNAVAILABLE"), ("400", "INTERNAL"), ("301", "UNKNOWN")],
)  # fmt: skip
async def test_an_answer_of_http_alone_is_mapped(server: Server, http: str, code: str) -> None:
    ear, _ = server.call()
    server.send(server.fields(1, ((b":status", http.encode()), (b"content-type", b"text/html"))))
    assert ear.status == Status(StatusCode[code], f"HTTP status {http}")
    assert server.connection.streams == {}
    server.send(f.frame(f.DATA, f.END_STREAM, 1, b"<html>"))  # what is still under way is dropped
    assert not server.connection.is_closed


async def test_what_answers_and_is_no_grpc_is_named(server: Server) -> None:
    ear, _ = server.call()
    server.send(server.fields(1, ((b":status", b"200"), (b"content-type", b"text/html"))))
    assert ear.status is not None
    assert ear.status.code == StatusCode.UNKNOWN
    assert "'text/html'" in ear.status.message


async def test_an_interim_answer_is_no_answer(server: Server) -> None:
    ear, _ = server.call()
    server.send(server.fields(1, ((b":status", b"103"), (b"link", b"x"))))
    server.send(server.fields(1, HEAD), data(1, b"a"), server.end(1))
    assert (ear.messages, ear.status) == ([b"a"], Status(StatusCode.OK))


async def test_compressed_answers_are_read_and_bounded(server: Server) -> None:
    ear, _ = server.call()
    head = (*HEAD, (b"grpc-encoding", b"gzip"))
    packed = gzip.compress(b"a" * 100_000)
    server.send(server.fields(1, head), f.frame(f.DATA, 0, 1, write_prefix(1, len(packed)) + packed))
    assert ear.messages == [b"a" * 100_000]
    bomb = gzip.compress(b"\0" * (65 << 20), 1)
    server.send(f.frame(f.DATA, 0, 1, write_prefix(1, len(bomb)) + bomb))
    assert ear.status is not None
    assert ear.status.code == StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("code", "status"),
    [(ErrorCode.REFUSED_STREAM, StatusCode.UNAVAILABLE), (ErrorCode.CANCEL, StatusCode.CANCELLED),
     (ErrorCode.ENHANCE_YOUR_CALM, StatusCode.RESOURCE_EXHAUSTED), (ErrorCode.NO_ERROR, StatusCode.INTERNAL)],
)  # fmt: skip
async def test_a_reset_call_has_the_status_of_its_code(server: Server, code: ErrorCode, status: StatusCode) -> None:
    ear, _ = server.call()
    server.send(f.rst_stream(1, code))
    assert ear.status is not None
    assert ear.status.code == status
    assert code.name in ear.status.message


async def test_an_unknown_code_is_an_internal_error(server: Server) -> None:
    ear, _ = server.call()
    server.send(f.frame(f.RST_STREAM, 0, 1, (0xDEAD).to_bytes(4, "big")))
    assert ear.status is not None
    assert ear.status.code == StatusCode.INTERNAL


async def test_a_lost_connection_ends_its_calls(server: Server) -> None:
    ear, stream = server.call()
    other, _ = server.call()
    server.connection.connection_lost(ConnectionResetError("peer is gone"))
    for heard in (ear, other):
        assert heard.status == Status(StatusCode.UNAVAILABLE, "the connection broke: peer is gone")
    await server.connection.write(stream, [b"late"])


async def test_a_server_that_leaves_refuses_what_it_has_not_seen_and_ends_the_rest(server: Server) -> None:
    first, stream = server.call()
    second, _ = server.call()
    server.send(server.fields(1, HEAD))
    server.send(f.goaway(1, ErrorCode.NO_ERROR, "maintenance"))
    assert first.left == second.left == ["maintenance"]
    assert second.status is not None
    assert second.status.code == StatusCode.UNAVAILABLE
    assert list(server.connection.streams) == [1]
    assert not server.connection.may_open
    server.connection.end(stream)
    server.send(data(1, b"last"), server.end(1))
    assert (first.messages, first.status) == ([b"last"], Status(StatusCode.OK))
    assert server.transport.is_closing


async def test_the_reason_of_a_goaway_is_that_of_the_calls(server: Server) -> None:
    ear, _ = server.call()
    server.send(f.goaway(1, ErrorCode.ENHANCE_YOUR_CALM, "too many connections of 10.0.0.1"))
    server.connection.connection_lost(None)
    assert ear.status is not None
    assert ear.status.code == StatusCode.UNAVAILABLE
    assert "too many connections of 10.0.0.1" in ear.status.message


async def test_a_connection_that_the_peer_has_reset_while_it_is_closed_tells_its_calls(server: Server) -> None:
    ear, _ = server.call()
    server.read()
    server.transport.is_gone = True
    server.send(f.goaway(0, ErrorCode.NO_ERROR))
    assert ear.status is not None
    assert ear.status.code == StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (f.frame(f.PUSH_PROMISE, f.END_HEADERS, 1, b"\0\0\0\2\x88"), ErrorCode.PROTOCOL_ERROR),
        (data(1, b"before its head"), ErrorCode.PROTOCOL_ERROR),
        (data(9, b"idle"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 2, b"\x88"), ErrorCode.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 9, b"\x88"), ErrorCode.PROTOCOL_ERROR),
        (f.window_update(0, f.LARGEST_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    ],
)
async def test_a_server_that_breaks_the_rules_is_left(server: Server, wire: bytes, code: ErrorCode) -> None:
    ear, _ = server.call()
    server.read()
    server.send(wire)
    goaway = server.read()[-1]
    assert (goaway.kind, goaway.code) == (f.GOAWAY, code)
    server.connection.connection_lost(None)
    assert ear.status is not None
    assert "breaks HTTP/2" in ear.status.message


@pytest.mark.parametrize("status", [b"", b"20", b"abc", b"100"])
async def test_an_answer_without_a_status_of_http_ends_the_call(server: Server, status: bytes) -> None:
    ear, _ = server.call()
    server.send(server.fields(1, ((b":status", status),), ends=True))
    assert ear.status is not None
    assert ear.status.code == StatusCode.INTERNAL
    assert not server.connection.is_closed


async def test_an_answer_that_ends_within_a_message_is_an_error(server: Server) -> None:
    ear, _ = server.call()
    server.send(server.fields(1, HEAD), f.frame(f.DATA, 0, 1, message(b"whole")[:-1]), server.end(1))
    assert ear.status == Status(StatusCode.INTERNAL, "the answer ends within a message")


async def test_writing_waits_for_a_window_and_a_call_that_ends_lets_it_go() -> None:
    server = Server(settings={f.INITIAL_WINDOW_SIZE: 10})
    _, stream = server.call()
    writing = asyncio.ensure_future(server.connection.write(stream, [b"x" * 20]))
    await asyncio.sleep(0)
    assert not writing.done()
    assert sum(len(frame.payload) for frame in server.read() if frame.kind == f.DATA) == 10
    server.send(f.window_update(1, 15))
    await writing
    stuck = asyncio.ensure_future(server.connection.write(stream, [b"y" * 50]))
    await asyncio.sleep(0)
    assert not stuck.done()
    server.send(f.rst_stream(1, ErrorCode.CANCEL))
    await stuck
    assert server.connection.unsent == 0


async def test_a_call_that_is_given_up_is_not_heard_of(server: Server) -> None:
    ear, stream = server.call()
    server.send(server.fields(1, HEAD))
    server.read()
    server.connection.abandon(stream)
    (reset,) = server.read()
    assert (reset.kind, reset.code) == (f.RST_STREAM, ErrorCode.CANCEL)
    server.send(data(1, b"late"), server.end(1))
    assert (ear.messages, ear.status) == ([], None)
    assert not server.connection.is_closed


async def test_windows_are_given_back(server: Server) -> None:
    ear, _ = server.call()
    server.send(server.fields(1, HEAD))
    server.read()
    for _ in range(60):
        server.send(data(1, b"x" * 1_000_000))
    assert len(ear.messages) == 60
    credit = sum(int.from_bytes(frame.payload, "big") for frame in server.read() if frame.number == 0)
    assert credit > 30_000_000


async def test_the_number_of_streams_that_a_server_takes_is_known() -> None:
    server = Server(settings={f.MAX_CONCURRENT_STREAMS: 1})
    assert server.connection.may_open
    server.call()
    assert not server.connection.may_open


@given(cuts=st.sets(st.integers(1, 3_000)), sizes=st.lists(st.integers(0, 700), max_size=5))
def test_the_same_bytes_in_any_pieces_are_the_same_answers(cuts: set[int], sizes: list[int]) -> None:
    async def feed(pieces: set[int]) -> Ear:
        server = Server()
        ear, _ = server.call()
        wire = server.fields(1, HEAD) + f.frame(f.PING, 0, 0, b"12345678")
        for size in sizes:
            wire += data(1, b"x" * size)
        wire += server.fields(1, OK, ends=True)
        places = [0, *sorted(cut for cut in pieces if cut < len(wire)), len(wire)]
        for start, stop in itertools.pairwise(places):
            server.send(wire[start:stop])
        return ear

    ear = asyncio.run(feed(cuts))
    assert ear.messages == [b"x" * size for size in sizes]
    assert ear.status == Status(StatusCode.OK)
