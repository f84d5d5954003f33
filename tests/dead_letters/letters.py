"""Make letters for tests of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from polku import Event
from polku.dead_letters.store import DeadLetterStore, Letter, Selection


def letter(event_id: str, emitter: str = "sink", code: str = "UNDELIVERED", *, payload: bytes = b"") -> Letter:
    """Return a letter of an event of the source `s`."""
    event = Event(id=event_id, event_type="t", source="s", payload=payload).SerializeToString(deterministic=True)
    return Letter(0, event_id, emitter, code, "why", "trace", 1, 1, 1, "t", "s", 0, event)


def found(store: DeadLetterStore, **selection: str) -> list[Letter]:
    """Return letters, the oldest first."""
    return sorted(store.select(Selection(**selection)))  # type: ignore[arg-type]


def ids(store: DeadLetterStore, **selection: str) -> list[str]:
    """Return the event ids of letters, the oldest first."""
    return [letter.event_id for letter in found(store, **selection)]


async def wait_for(condition: Callable[[], bool]) -> None:
    """Let everything else run until a condition holds, for half a minute at most."""
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("never came to be")
