"""What is no answer of Redis confirms nothing, and what comes behind it is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from polku import Batch, Event, RedisStreamsEmitter, RetryableError
from polku.clock import SystemClock


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[RedisStreamsEmitter]:
    """Give one answer to each XADD; yield an emitter that appends there."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                writer.write(answer if words[0] == b"XADD" else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield RedisStreamsEmitter("t", url=f"redis://127.0.0.1:{port}", timeout=5)
    finally:
        server.close()


@pytest.mark.parametrize("answer", [b"$-1\r\n", b"*-1\r\n", b"+OK\r\n", b"+QUEUED\r\n", b":5\r\n", b"$0\r\n\r\n"])
async def test_only_the_id_of_an_entry_confirms_an_event(answer: bytes) -> None:
    async with answering(answer) as config:
        running = config.build(SystemClock())
        failures = await running.emit(Batch.from_events([Event(id="a"), Event(id="b")]))
        await running.close()
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("a", True), ("b", True)]
    assert "is no id of an entry" in failures[0].reason


@pytest.mark.parametrize(
    "answer", [b"$-5\r\n", b"$x\r\n", b"*x\r\n", b"hello\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
)
async def test_what_does_not_speak_redis_is_tried_again(answer: bytes) -> None:
    async with answering(answer) as config:
        running = config.build(SystemClock())
        with pytest.raises(RetryableError, match=r"127\.0\.0\.1"):
            await running.emit(Batch.from_events([Event(id="a"), Event(id="b")]))
        await running.close()


async def test_an_answer_too_many_does_not_confirm_what_comes_next() -> None:
    async with answering(b"$3\r\n1-1\r\n$3\r\n9-9\r\n+NO\r\n") as config:
        running = config.build(SystemClock())
        for _ in range(3):  # each begins with another connection, on which nothing is left of the one before
            failures = await running.emit(Batch.from_events([Event(id="a")]))
            assert failures == []
        await running.close()
