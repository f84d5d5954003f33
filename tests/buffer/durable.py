"""A durable buffer for tests: opened, closed, opened again on the same journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from polku import Batch, BufferStrategy, Event
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt, outcome_of
from polku.buffer.buffer import Buffer
from polku.buffer.durable import DurableLog
from polku.buffer.strategy import Overflow
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer
from tests.buffer.parts import Destination


def shut() -> Destination:
    """Return a destination that is down."""
    return Destination(is_open=False)


def batch_of(*ids: str, seq: int = 0, to: tuple[str, ...] = (), payload: bytes = b"") -> Batch:
    """Return a batch; with a number it has an identity."""
    batch = Batch.from_events([Event(id=i, route_to=to, payload=payload) for i in ids], routes=to)
    batch.identity = Identity("link", 7, seq) if seq else None
    return batch


class Durable:
    """A buffer on a journal, and its destinations."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    @property
    def log(self) -> DurableLog:
        log = self.buffer._log
        assert isinstance(log, DurableLog)
        return log

    async def push(self, batch: Batch) -> Receipt:
        answer = await self.buffer.push(batch)
        return await outcome_of(answer)


@asynccontextmanager
async def durable(
    path: Path,
    destinations: Mapping[str, Destination],
    *,
    strategy: BufferStrategy | None = None,
    overflow: Mapping[str, Overflow] | None = None,
    best_effort: Collection[str] = (),
    await_delivery: bool = False,
    running: bool = True,
    dead_letters: DeadLetters | None = None,
) -> AsyncIterator[Durable]:
    """Open a durable buffer, and close it as a process that stops would."""
    links = {name: Link(name, LocalPeer(destination)) for name, destination in destinations.items()}
    strategy = strategy or BufferStrategy.durable(path)
    options = {"overflow": overflow, "best_effort": best_effort, "await_delivery": await_delivery}
    buffer = Buffer(strategy, links, dead_letters or DeadLetters(), **options)  # type: ignore[arg-type]
    await buffer.open()
    if running:
        buffer.start()
    try:
        yield Durable(buffer)
    finally:
        await buffer.close()


async def soon(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Wait for what other threads bring about."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - threads set it
            await asyncio.sleep(0.005)
