"""What the tests of the buffer stand on: emitters that a test opens and closes, and batches of numbered events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from polku import Batch, BufferStrategy, Code, Event, Refusal
from polku.batch.receipt import Answer, Receipt, outcome_of
from polku.buffer.buffer import Buffer
from polku.buffer.strategy import Overflow
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer


class Destination:
    """Take batches while its gate is open; refuse the ids that it was given."""

    def __init__(self, *, is_open: bool = True, refuses: Collection[str] = ()) -> None:
        self.batches: list[Batch] = []
        self.calls = 0
        self.refuses = refuses
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()

    async def push(self, batch: Batch) -> Receipt:
        self.calls += 1
        await self.gate.wait()
        self.batches.append(batch)
        return Receipt(tuple(Refusal(i, Code.UNDELIVERED, "refused") for i in batch.ids if i in self.refuses))

    @property
    def ids(self) -> list[str]:
        return [event_id for batch in self.batches for event_id in batch.ids]


def batch(*ids: str, to: Sequence[str] = (), payload: bytes = b"") -> Batch:
    return Batch.from_events([Event(id=i, route_to=to, payload=payload) for i in ids], routes=tuple(to))


def numbered(start: int, end: int) -> list[str]:
    return [f"{n:04d}" for n in range(start, end)]


def held(buffer: Buffer) -> tuple[int, int]:
    """Return how many events, and bytes, a buffer holds."""
    statistics = buffer.statistics()
    return statistics.events, statistics.bytes


class Bench:
    """A buffer, its dead letters and its destinations."""

    def __init__(
        self,
        strategy: BufferStrategy,
        destinations: Mapping[str, Destination],
        *,
        overflow: Mapping[str, Overflow] | None = None,
        await_delivery: bool = False,
        running: bool = True,
        retry_delay: Callable[[int], float] | None = None,
        always: Collection[str] = (),
    ) -> None:
        self.dead_letters = DeadLetters()
        self.destinations = destinations
        links = {name: Link(name, LocalPeer(d), retry_delay=retry_delay) for name, d in destinations.items()}
        self.buffer = Buffer(
            strategy, links, self.dead_letters, overflow=overflow, await_delivery=await_delivery, always=always
        )
        if running:
            self.buffer.start()

    @property
    def held(self) -> tuple[int, int]:
        """How many events, and bytes, the buffer holds."""
        statistics = self.buffer.statistics()
        return statistics.events, statistics.bytes

    async def push(self, batch: Batch) -> Receipt:
        answer = await self.buffer.push(batch)
        return await outcome_of(answer)


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until a condition holds, for at most so many turns of the loop."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("never came to be")


async def rest() -> None:
    """Let everything that can run do so: what has not happened then waits for something."""
    for _ in range(100):
        await asyncio.sleep(0)


async def finish(answer: Answer) -> Receipt:
    return await outcome_of(answer)
