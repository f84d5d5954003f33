"""What a tap costs: `python -m tests.tap.cost` on a machine with nothing else to do.

Batches of 1,000 events go through a stage of a Filter and a Transform; the test of the attribute is timed by itself.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import timeit

from polku import Filter, Transform, new_event
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.clock import SystemClock
from polku.dead_letters import DeadLetters
from polku.event.v1.event_pb2 import Event
from polku.middleware.adapt import as_step
from polku.stage.stage import Stage
from polku.tap.redaction import Redaction
from polku.tap.request import TapRequest, What
from polku.tap.taps import Taps

EVENTS = 1_000
ROUNDS = 200
EVERYTHING = dict.fromkeys(What, ("*",))


class Nowhere:
    """A link that takes everything."""

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Take a batch."""
        taken: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        taken.set_result(Receipt())
        return taken

    async def wait_room(self) -> None:
        """Return: there is always room."""

    async def close(self) -> None:
        """There is nothing to close."""


def mark(event: Event) -> None:
    event.metadata["seen"] = "yes"


class Looked:
    """A stage at which somebody looks, or nobody."""

    def __init__(self, request: TapRequest | None) -> None:
        middleware = (Filter(lambda event: event.event_type != "debug"), Transform(mark))
        steps = [as_step(one, SystemClock()) for one in middleware]
        self._stage = Stage(steps, Nowhere(), DeadLetters(), SystemClock())
        self._taps = Taps({"stage-1": self._stage}, Redaction())
        self._request = request
        self.took: list[float] = []

    def read(self) -> None:
        """Read what the tap has kept."""
        if self._request is not None:
            self._taps.read(self._request)

    async def push(self, payload: bytes) -> None:
        """Push a batch, and note the seconds that it takes."""
        batch = Batch(payload=payload, routes=())
        began = time.perf_counter()
        await self._stage.push(batch)
        self.took.append(time.perf_counter() - began)


async def main() -> None:
    """Measure in turns and print medians; a tap is read every 100 batches."""
    stage = Stage([], Nowhere(), DeadLetters(), SystemClock())
    test = min(timeit.repeat("stage.tap is not None", globals={"stage": stage}, number=1_000_000)) * 1e3
    print(f"the test of the attribute: {test:.0f} ns, twice a batch and step")
    stages = {
        "nobody looks": Looked(None),
        "outputs, 100 of each part": Looked(TapRequest("a", {What.OUT: ("*",)})),
        "everything, 100 of each part": Looked(TapRequest("b", EVERYTHING)),
        "everything, 1,000 of each part": Looked(TapRequest("c", EVERYTHING, limit=1_000)),
        "one id": Looked(TapRequest("d", EVERYTHING, event_id="none")),
    }
    payload = Batch.from_events([new_event("order", source="shop", payload=bytes(64)) for _ in range(EVENTS)]).payload
    for number in range(ROUNDS):
        for one in stages.values():
            if number % 100 == 0:
                one.read()
            await one.push(payload)
    bare = stages["nobody looks"].took
    for name, one in stages.items():
        ratio = statistics.median(mine / its for mine, its in zip(one.took, bare, strict=True))
        print(f"{name}: {statistics.median(one.took) * 1e6:.0f} µs a batch of {EVENTS} ({ratio - 1:+.1%})")


if __name__ == "__main__":
    asyncio.run(main())
