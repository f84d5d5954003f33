"""The status of an answer counts, whatever else stands in it: what 2xx confirms or 4xx refuses is not posted again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from polku import Batch, Event, Failure, WebhookEmitter
from polku.clock import SystemClock

OK = b"HTTP/1.1 200 OK\r\n"
ODD = {
    "a long header": b"Set-Cookie: a=" + b"a" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "what is not gzip": b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a body that never comes": b"Content-Length: 10\r\n\r\n",
}


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[WebhookEmitter, list[bytes]]]:
    """Serve one answer to each request; yield an emitter that posts there, and the bodies that came."""
    posted: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                posted.append(await reader.readexactly(int(length.partition(b":")[2])))
                writer.write(answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield WebhookEmitter(f"http://127.0.0.1:{port}/", timeout=5), posted
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def emitted(config: WebhookEmitter) -> list[Failure]:
    running = config.build(SystemClock())
    await running.start()
    try:
        return await running.emit(Batch.from_events([Event(id="a"), Event(id="b")]))
    finally:
        await running.close()


@pytest.mark.parametrize("answer", ODD)
async def test_events_that_an_answer_confirms_are_not_posted_again(answer: str) -> None:
    async with answering(OK + ODD[answer]) as (config, posted):
        assert await emitted(config) == []
        assert len(posted) == 1


@pytest.mark.parametrize("answer", ODD)
async def test_events_that_an_answer_refuses_are_not_tried_again(answer: str) -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\n" + ODD[answer]) as (config, _):
        failures = await emitted(config)
        assert [(failure.event_id, failure.retryable) for failure in failures] == [("a", False), ("b", False)]
        assert "HTTP 400" in failures[0].reason
