"""A peer that is silent, gone, or does not read is noticed in time, and no other peer is."""

from __future__ import annotations

import time

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode
from polku.http2.limits import ConnectionLimits
from tests.http2.peer import LIMITS, Client, Echo, Transport, last


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
