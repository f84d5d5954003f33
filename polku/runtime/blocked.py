"""An event loop that does not turn, since user code blocks it: what health says of it."""

from __future__ import annotations

from collections.abc import Iterable

from polku.aio.pulse import Pulse
from polku.health import Health
from polku.text import line, span

STUCK_SECONDS = 1.0
"""How long an event loop may not turn until health says so."""

DEAD_SECONDS = 10.0
"""How long until it counts as stuck permanently."""

PART = "event_loop"


def with_loop(health: Health, pulse: Pulse | None, busy: Iterable[str] = ()) -> Health:
    """Return the health with the event loop as a part where it does not turn; `busy` is middleware at work."""
    seconds = 0.0 if pulse is None else pulse.stuck()
    if pulse is None or seconds < STUCK_SECONDS:
        return health
    place = pulse.place()
    at = f" (at {place.line})" if place else ""
    what = " and ".join(busy) or (place.function if place else "something")
    why = line(f"has not turned for {span(seconds)}{at}: {what} blocks it")
    parts = {**health.components, PART: (False, why)}
    health = health._replace(healthy=False, components=parts, seconds={**health.seconds, PART: seconds})
    if seconds < DEAD_SECONDS:
        return health
    not_ready = "; ".join(text for text in (health.not_ready, f"the event loop {why}") if text)
    return health._replace(ready=False, not_ready=not_ready)
