"""An answer 2xx has confirmed the events, whatever else stands in it: they are not posted again."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Event, WebhookEmitter
from polku.clock import SystemClock

OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "a long header": OK + b"Set-Cookie: a=" + b"a" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "what is not gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a body that never comes": OK + b"Content-Length: 10\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_events_that_an_answer_confirms_are_not_posted_again(answer: str) -> None:
    posted = 0
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal posted
        writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        posted += 1
        writer.write(ANSWERS[answer])
        await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    running = WebhookEmitter(f"http://127.0.0.1:{port}/", timeout=5).build(SystemClock())
    await running.start()
    try:
        assert await running.emit(Batch.from_events([Event(id="a"), Event(id="b")])) == []
        assert posted == 1
    finally:
        await running.close()
        server.close()
        for writer in writers:
            writer.close()
