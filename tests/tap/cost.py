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


async def measure(request: TapRequest | None) -> float:
    """Return the microseconds that a batch takes, the median; a tap is read every 100 batches."""
    middleware = (Filter(lambda event: event.event_type != "debug"), Transform(mark))
    steps = [as_step(one, SystemClock()) for one in middleware]
    stage = Stage(steps, Nowhere(), DeadLetters(), SystemClock())
    taps = Taps({"stage-1": stage}, Redaction())
    payload = Batch.from_events([new_event("order", source="shop", payload=bytes(64)) for _ in range(EVENTS)]).payload
    took = []
    for number in range(ROUNDS):
        if request is not None and number % 100 == 0:
            taps.read(request)
        batch = Batch(payload=payload, routes=())
        began = time.perf_counter()
        await stage.push(batch)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


async def main() -> None:
    """Measure and print."""
    stage = Stage([], Nowhere(), DeadLetters(), SystemClock())
    test = min(timeit.repeat("stage.tap is not None", globals={"stage": stage}, number=1_000_000)) * 1e3
    print(f"the test of the attribute: {test:.0f} ns, twice a batch and step")
    requests = {
        "nobody looks": None,
        "outputs, 100 of each part": TapRequest("a", {What.OUT: ("*",)}),
        "everything, 100 of each part": TapRequest("b", EVERYTHING),
        "everything, 1,000 of each part": TapRequest("c", EVERYTHING, limit=1_000),
        "one id": TapRequest("d", EVERYTHING, event_id="none"),
    }
    base = await measure(None)
    for name, request in requests.items():
        took = await measure(request)
        print(f"{name}: {took:.0f} µs a batch of {EVENTS} ({took / base - 1:+.1%})")


if __name__ == "__main__":
    asyncio.run(main())
