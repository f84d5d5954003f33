"""One call of an emitter, as a delivery makes it."""

from __future__ import annotations

import asyncio
from typing import Any

from polku import Batch, Emitter, Event


def emit(emitter: Emitter, *events: Event) -> list[Any]:
    """Emit one batch as it is, without the resilience around it, close the emitter, and return what it said."""

    async def run() -> list[Any]:
        running: Any = emitter
        try:
            return list(await running.emit(Batch.from_events(events, routes=())) or ())
        finally:
            await running.close()

    return asyncio.run(run())
