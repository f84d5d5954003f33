"""A pipeline whose journal finds no room on its disk any more; prints what it showed before and then, as JSON."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
import time

from polku import Batch, BufferStrategy, Hub, new_event
from tests.monitoring.firing import series_of

_ROOM = 8_000_000  # bytes that a file may have


async def partner(batch: Batch) -> None:
    """Never finish the first batch, so that everything stays in the journal."""
    await asyncio.Event().wait()


def main(path: str) -> None:
    """Send until the journal can be written no more."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM, resource.RLIM_INFINITY))
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(path)).emitter(partner)
    with hub.start() as pipeline:
        before = after = series_of(pipeline.statistics())
        limit = time.monotonic() + 60
        refused = 0
        while refused < 100 or 1.0 in _writable(after):
            assert time.monotonic() < limit
            events = [new_event("order", source="shop", payload=b"x" * 10_000) for _ in range(10)]
            refused += len(pipeline.sender().send(events).refused)
            after = series_of(pipeline.statistics())
        print(json.dumps([before, after]), flush=True)
        pipeline.stop(timeout=0.0)


def _writable(found: dict[str, tuple[float, bool]]) -> list[float]:
    return [value for name, (value, _) in found.items() if name.startswith("polku_journal_writable")]


if __name__ == "__main__":
    main(sys.argv[1])
