"""What a connection does with bytes that come while a plain request has no answer yet, without any server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku import Limits
from polku.gateway.http.connections import Connections, HttpConnection
from polku.gateway.http.usual import UsualHead

FIRST = b"POST /v1/events HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"
OTHER = b"GET /health HTTP/1.1\r\nHost: here\r\nX-Long: " + b"x" * 3_000 + b"\r\n\r\n"


class Inner(asyncio.Protocol):
    """Keep what is handed on."""

    def __init__(self) -> None:
        self.received = b""
        self.is_ended = False
        self.made: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.is_ended = True
        return False


class Wire(asyncio.Transport):
    """What a connection writes, and whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_read, self.is_shut = True, False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.is_shut = True

    def is_closing(self) -> bool:
        return self.is_shut

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


class Place:
    """A connection in front of `Inner`, whose plain requests are kept."""

    def __init__(self, limits: Limits, *, loads: bool = True, together: bytes | None = None) -> None:
        self.together = together  # the body of requests that are answered together
        self.inner = Inner()
        self.requests: list[bytes] = []
        self.asked = 0
        self.leaves = 0  # requests that leave together, as soon as the last of them has come
        self.answers_at_once = False
        self.connections = Connections(self._load, limits, self._keep, self._take)
        if loads:
            self.load()
        self.connection = self.connections()
        self.wire = Wire()
        self.connection.connection_made(self.wire)

    def _load(self) -> None:
        self.asked += 1

    def load(self) -> None:
        self.connections.begin_unusual(lambda: self.inner)

    def _take(self, connection: HttpConnection, head: UsualHead, body: bytes) -> bool:
        if body == self.together:
            self.requests.append(body)
            if self.leaves and len(self.requests) % self.leaves == 0 and self.answers_at_once:
                connection.answered(b"!" * self.leaves, close=False)
            elif self.leaves and len(self.requests) % self.leaves == 0:
                connection.await_answer()
        return body == self.together

    def _keep(self, connection: HttpConnection, head: UsualHead, body: bytes) -> None:
        self.requests.append(body)


async def test_what_comes_before_the_answer_waits_for_it_also_where_there_is_no_room() -> None:
    place = Place(Limits(open_bytes=2_000, message_bytes=1_000))
    place.connection.data_received(FIRST)
    place.connection.data_received(OTHER)
    assert (place.requests, place.inner.received, place.wire.is_read) == ([b"{}"], b"", False)
    place.connection.answered(b"the answer", close=False)
    assert place.wire.written == b"the answer"
    await asyncio.sleep(0)
    assert (place.inner.received, place.wire.is_read) == (OTHER, True)
    place.connection.connection_lost(None)


async def test_all_that_came_before_the_end_is_answered() -> None:
    place = Place(Limits())
    place.connection.data_received(2 * FIRST)
    assert place.connection.eof_received()
    place.connection.answered(b"1", close=False)
    closed = [place.wire.is_shut]
    await asyncio.sleep(0)
    assert place.requests == [b"{}", b"{}"]
    place.connection.answered(b"2", close=False)
    assert place.wire.written == b"12"
    assert [*closed, place.wire.is_shut] == [False, True]
    place.connection.connection_lost(None)


async def test_an_answer_to_a_client_that_has_left_goes_nowhere() -> None:
    place = Place(Limits())
    place.connection.data_received(FIRST)
    place.connection.connection_lost(None)
    place.connection.answered(b"1", close=False)
    assert place.wire.written == b""


async def test_another_request_waits_until_what_reads_it_is_loaded_and_loses_nothing() -> None:
    place = Place(Limits(open_bytes=2_000, message_bytes=1_000), loads=False)
    place.connection.data_received(FIRST)
    place.connection.answered(b"1", close=False)
    assert (place.asked, place.inner.made) == (0, None)
    place.connection.data_received(OTHER[:1_000])
    place.connection.data_received(OTHER[1_000:])
    assert (place.asked, place.inner.received, place.wire.is_read) == (1, b"", False)
    place.load()
    assert (place.inner.made, place.inner.received, place.wire.is_read) == (place.wire, OTHER, True)
    place.connection.data_received(b"more")
    assert place.inner.received == OTHER + b"more"
    place.connection.connection_lost(None)


async def test_a_client_that_ends_or_leaves_while_that_is_loaded_is_handed_over_or_forgotten() -> None:
    ended, left = Place(Limits(), loads=False), Place(Limits(), loads=False)
    for place in (ended, left):
        place.connection.data_received(b"OPTIONS * HTTP/1.1\r\n\r\n")
    assert ended.connection.eof_received()
    left.connection.connection_lost(None)
    for place in (ended, left):
        place.load()
    assert (ended.inner.received, ended.inner.is_ended) == (b"OPTIONS * HTTP/1.1\r\n\r\n", True)
    assert ended.wire.is_shut
    assert left.inner.made is None
    ended.connection.connection_lost(None)


PAIR = FIRST.replace(b"2\r\n\r\n{}", b"4\r\n\r\n[{}]")


async def test_requests_that_are_answered_together_are_read_together_and_others_after_their_answer() -> None:
    place = Place(Limits(), together=b"{}")
    place.connection.data_received(3 * FIRST + PAIR + FIRST)
    assert place.requests == [b"{}", b"{}", b"{}"]
    place.connection.answered(b"123", close=False)
    await asyncio.sleep(0)
    assert place.requests == [b"{}", b"{}", b"{}", b"[{}]"]
    place.connection.answered(b"4", close=False)
    await asyncio.sleep(0)
    assert place.requests[4:] == [b"{}"]
    place.connection.answered(b"5", close=False)
    assert place.wire.written == b"12345"
    place.connection.connection_lost(None)


async def test_another_protocol_takes_over_only_behind_the_answers_of_what_is_answered_together() -> None:
    place = Place(Limits(), together=b"{}")
    other = b"OPTIONS * HTTP/1.1\r\n\r\n"
    place.connection.data_received(2 * FIRST + other)
    assert place.inner.received == b""
    place.connection.answered(b"12", close=False)
    await asyncio.sleep(0)
    assert (place.wire.written, place.inner.received) == (b"12", other)
    place.connection.connection_lost(None)


async def test_what_comes_once_requests_have_left_together_waits_for_their_answers() -> None:
    place = Place(Limits(), together=b"{}")
    place.connection.data_received(FIRST)
    place.connection.data_received(FIRST)  # in the same turn
    place.connection.await_answer()
    place.connection.data_received(FIRST)
    assert place.requests == [b"{}", b"{}"]
    place.connection.answered(b"12", close=False)
    await asyncio.sleep(0)
    assert place.requests == [b"{}", b"{}", b"{}"]
    place.connection.connection_lost(None)


async def test_a_turn_takes_no_more_of_one_connection_than_is_short() -> None:
    place = Place(Limits(), together=b"{}")
    place.connection.data_received(100 * FIRST)
    assert len(place.requests) == 64
    place.connection.answered(b"", close=False)
    await asyncio.sleep(0)
    assert len(place.requests) == 100
    place.connection.connection_lost(None)


async def test_a_client_that_ends_behind_requests_that_are_answered_together_gets_all_answers() -> None:
    place = Place(Limits(), together=b"{}")
    place.connection.data_received(2 * FIRST)
    assert place.connection.eof_received()
    place.connection.answered(b"12", close=False)
    assert (place.wire.written, place.wire.is_shut) == (b"12", True)
    place.connection.connection_lost(None)


async def test_a_request_in_pieces_is_answered_together_with_the_ones_before_it() -> None:
    place = Place(Limits(), together=b"{}")
    for byte in 3 * FIRST:
        place.connection.data_received(bytes([byte]))
    assert place.requests == [b"{}", b"{}", b"{}"]
    place.connection.connection_lost(None)


async def test_requests_behind_those_that_have_left_in_the_same_turn_wait_for_their_answers() -> None:
    """Answers come in the order of the requests, although other batches may be answered sooner."""
    place = Place(Limits(), together=b"{}")
    place.leaves = 2
    place.connection.data_received(3 * FIRST)
    assert len(place.requests) == 2
    place.connection.answered(b"12", close=False)
    await asyncio.sleep(0)
    assert len(place.requests) == 3
    place.connection.connection_lost(None)


@pytest.mark.parametrize("before", [0, 1])
async def test_a_client_whose_requests_were_answered_while_they_were_read_is_closed_at_its_end(before: int) -> None:
    place = Place(Limits(), together=b"{}")
    place.connection.data_received(before * PAIR)  # one that is answered alone, and at whose answer the rest is read
    place.leaves, place.answers_at_once = 2 + before, True
    place.connection.data_received(2 * FIRST)
    if before:
        assert place.connection.eof_received()
        place.connection.answered(b"alone", close=False)
        await asyncio.sleep(0)
    else:
        assert place.connection.idle_since is not None
        assert not place.connection.eof_received()  # asyncio closes it
    assert place.wire.is_shut is bool(before)
    place.connection.connection_lost(None)
