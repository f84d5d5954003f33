"""What the middleware tests share: events to put in, and a way to run one component on them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from polku.clock import Clock
from polku.contracts import Outcome
from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.middleware.adapt import as_step
from tests.support.clock import FakeClock


def events(*ids: str, event_type: str = "user.login", source: str = "agent") -> list[Event]:
    return [new_event(event_type, id=event_id, source=source) for event_id in ids]


def ids(outcome: Outcome) -> list[str]:
    return [event.id for event in outcome.events]


def refused(outcome: Outcome) -> dict[str, str]:
    """Return `CODE: message` by event id."""
    return {dead.event.id: f"{dead.refusal.code}: {dead.refusal.message}" for dead in outcome.refused}


async def run(component: object, given: Iterable[Event], *, clock: Clock | None = None) -> Outcome:
    return await work(as_step(component, clock or FakeClock()), list(given))


async def work(step: Any, given: list[Event], batch: int = 1) -> Outcome:
    result = step.process(given, batch)
    outcome: Outcome = await result if inspect.isawaitable(result) else result
    return outcome
