"""Calls of one message and streams, side by side on one connection, against grpcio's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from polku.rpc.channel import Channel, Target
from polku.rpc.client import GrpcClientConnection, request_head
from polku.rpc.status import Status, StatusCode

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Caller:
    """Remember answers and statuses of all calls."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.statuses: list[Status] = []
        self.news = asyncio.Event()

    def answered(self, message: bytes) -> None:
        self.answers.append(message)

    def ended(self, status: Status) -> None:
        self.statuses.append(status)
        self.news.set()

    def leaving(self, reason: str) -> None: ...

    async def ends(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.statuses) < count:
                self.news.clear()
                await self.news.wait()


async def echo(data: bytes, context: Any) -> bytes:
    if data.isdigit():
        await context.abort(list(grpc.StatusCode)[int(data)], "as asked")
    return data


async def echo_each(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for data in requests:
        yield data


@asynccontextmanager
async def connected(method: str) -> AsyncIterator[tuple[GrpcClientConnection, bytes, Any]]:
    server = grpc.aio.server(options=UNLIMITED)
    methods = {
        "One": grpc.unary_unary_rpc_method_handler(echo),
        "Many": grpc.stream_stream_rpc_method_handler(echo_each),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    channel = Channel(Target(address))
    yield await channel.connection(), request_head(address, f"/test.Echo/{method}", tls=False), server
    await channel.close()
    await server.stop(0)


async def test_unary_calls_side_by_side_are_answered() -> None:
    caller = Caller()
    async with connected("One") as (connection, head, _):
        for number in range(200):
            connection.ask(head, b"message %d" % number, caller)
        await caller.ends(200)
        assert connection.streams == {}
    assert sorted(caller.answers) == sorted(b"message %d" % number for number in range(200))
    assert caller.statuses == [Status(StatusCode.OK)] * 200


@pytest.mark.parametrize("size", [0, 16_379, 16_380, 70_000, 3_000_000])
async def test_a_call_of_any_size(size: int) -> None:
    caller = Caller()
    async with connected("One") as (connection, head, _):
        connection.ask(head, b"x" * size, caller)
        await caller.ends(1)
    assert (caller.answers, caller.statuses) == ([b"x" * size], [Status(StatusCode.OK)])


async def test_a_stream_keeps_order_and_large_messages_pass_the_windows() -> None:
    messages = [bytes([number]) * size for number, size in enumerate((0, 1, 16_384, 70_000, 3_000_000, 5))]
    caller = Caller()
    async with connected("Many") as (connection, head, _):
        stream = connection.begin(head, caller)
        for message in messages:
            connection.post(stream, (message[:7], message[7:]))
        connection.end(stream)
        await caller.ends(1)
    assert caller.answers == messages
    assert caller.statuses == [Status(StatusCode.OK)]


@pytest.mark.parametrize("code", list(grpc.StatusCode)[1:], ids=lambda code: code.name)
async def test_the_status_of_a_failed_call_is_known(code: grpc.StatusCode) -> None:
    caller = Caller()
    async with connected("One") as (connection, head, _):
        connection.ask(head, str(list(grpc.StatusCode).index(code)).encode(), caller)
        await caller.ends(1)
    assert (caller.statuses, caller.answers) == ([Status(StatusCode[code.name], "as asked")], [])


async def test_a_server_that_goes_away_is_noticed() -> None:
    caller = Caller()
    async with connected("Many") as (connection, head, server):
        connection.begin(head, caller)
        await server.stop(0)
        await caller.ends(1)
        assert caller.statuses[0].code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
        await connection.gone
