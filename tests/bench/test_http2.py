"""The generator's own client against gRPC's own server: windows, frames, statuses, connections that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from polku.bench.http2 import Connection

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Caller:
    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.statuses: list[str] = []
        self.reasons: list[str] = []
        self.news = asyncio.Event()

    def answered(self, stream: int, message: bytes) -> None:
        self.answers.append(message)
        self.news.set()

    def ended(self, stream: int, status: str) -> None:
        self.statuses.append(status)
        self.news.set()

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.news.set()

    async def until(self, what: list[Any], count: int) -> None:
        async with asyncio.timeout(20):
            while len(what) < count:
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
async def connected(method: str) -> AsyncIterator[tuple[Connection, Caller, Any]]:
    server = grpc.aio.server(options=UNLIMITED)
    methods = {
        "One": grpc.unary_unary_rpc_method_handler(echo),
        "Many": grpc.stream_stream_rpc_method_handler(echo_each),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    caller = Caller()
    make = lambda: Connection(f"127.0.0.1:{port}", f"/test.Echo/{method}", caller)  # noqa: E731
    _, connection = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    await connection.ready
    yield connection, caller, server
    connection.close()
    await server.stop(0)


async def test_unary_calls_side_by_side_are_answered() -> None:
    async with connected("One") as (connection, caller, _):
        for number in range(200):
            connection.call(b"message %d" % number)
        await caller.until(caller.statuses, 200)
        assert sorted(caller.answers) == sorted(b"message %d" % number for number in range(200))
        assert caller.statuses == ["OK"] * 200


async def test_a_stream_keeps_order_and_large_messages_pass_the_windows() -> None:
    messages = [bytes([number]) * size for number, size in enumerate((0, 1, 16_384, 70_000, 3_000_000, 5))]
    async with connected("Many") as (connection, caller, _):
        stream = connection.open()
        for message in messages:
            connection.send(stream, message)
        connection.end(stream)
        await caller.until(caller.statuses, 1)
        assert caller.answers == messages
        assert caller.statuses == ["OK"]


@pytest.mark.parametrize("code", list(grpc.StatusCode)[1:], ids=lambda code: code.name)
async def test_the_status_of_a_failed_call_is_known(code: grpc.StatusCode) -> None:
    async with connected("One") as (connection, caller, _):
        connection.call(str(list(grpc.StatusCode).index(code)).encode())
        await caller.until(caller.statuses, 1)
        assert (caller.statuses, caller.answers) == ([code.name], [])


async def test_a_server_that_goes_away_is_noticed() -> None:
    async with connected("Many") as (connection, caller, server):
        connection.open()
        await server.stop(0)
        await caller.until(caller.reasons, 1)
