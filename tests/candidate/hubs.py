"""Hubs with a candidate, and what their pipelines count of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polku import Event, new_event
from polku.candidate.comparison import Made
from polku.candidate.configuration import Mode, WithCandidate
from polku.middleware.adapt import as_step
from tests.support.clock import FakeClock


def mark(text: str) -> Callable[[Event], None]:
    def marked(event: Event) -> None:
        event.metadata["mark"] = text

    return marked


def numbered(count: int, **options: Any) -> list[Event]:
    return [new_event("order", id=f"e{number}", **options) for number in range(count)]


def new(event: Event) -> Event | None:
    """Do as `mark("old")` does, apart from events with some numbers."""
    match event.id[-1]:
        case "1":
            event.metadata["mark"] = "new"
            event.payload = b"more"
        case "2":
            raise ValueError("no twos")
        case _:
            event.metadata["mark"] = "old"
    return event


def canary(old: object, fresh: object, share: float = 0.5, key: Any = "id") -> Any:
    return as_step(WithCandidate(old, fresh, "fresh", Mode.CANARY, share, key), FakeClock())


def made(*made_events: Event, refused: str = "") -> Made:
    return Made(tuple(event.SerializeToString() for event in made_events), refused)
