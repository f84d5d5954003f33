"""An answer that is none of JetStream's confirms nothing, whoever gives it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku import Batch, Event, NatsEmitter
from polku.clock import SystemClock
from tests.nats.server import Server, needs_nats

pytestmark = needs_nats


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"{}", "no acknowledgement of JetStream"),
        (b'{"ok":true}', "no acknowledgement of JetStream"),
        (b'{"stream":"","seq":0}', "no acknowledgement of JetStream"),
        (b'{"stream":"S","seq":"1"}', "no acknowledgement of JetStream"),
        (b'{"error":{}}', "no acknowledgement of JetStream"),
        (b'{"error":"not today"}', "not today"),
        (b'{"error":{"err_code":"x","description":5}}', "5"),
        (b"[" * 100_000, "no acknowledgement of JetStream"),
        (b"[]", "no acknowledgement of JetStream"),
        (b"", "no acknowledgement of JetStream"),
    ],
)
async def test_an_answer_of_something_else_confirms_nothing(answer: bytes, reason: str) -> None:
    import nats

    server = await asyncio.to_thread(Server)
    responder: Any = await nats.connect(server.url)

    async def respond(message: Any) -> None:
        await message.respond(answer)

    await responder.subscribe("plain.>", cb=respond)
    await responder.flush()
    running = NatsEmitter("plain.x", servers=server.url, timeout=20).build(SystemClock())
    failures = await running.emit(Batch.from_events([Event(id="a", event_type="t"), Event(id="b", event_type="t")]))
    await running.close()
    await responder.close()
    server.close()
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("a", True), ("b", True)]
    assert reason in failures[0].reason
