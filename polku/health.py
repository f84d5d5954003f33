"""How a pipeline is, as a whole and part by part."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from polku.text import next_attempt
from polku.v1.gateway_pb2 import ComponentHealth, HealthResponse

DRAINING = "refuses new events: the pipeline is draining"
"""What is said of an ingest while its pipeline stops, as somebody wants it to."""


class Cause(StrEnum):
    """Say why an emitter delivers nothing, as far as its errors tell, or why a part is away."""

    UNKNOWN = ""
    SETTINGS = "settings"
    """Somebody has to fix the address, the credentials or the permissions."""
    CODE = "code"
    """Code of the pipeline's raises, and events are given up for it."""
    GIVES_UP = "gives up"
    """The destination is out of reach, and events are given up after a number of attempts."""
    ENDED = "ended"
    """The process of the part has ended, or is out of reach."""


_UNTOLD = "unhealthy; why is said at the admin address"


class Health(NamedTuple):
    """How a pipeline is: `healthy` where every part is, each with a sentence; `processed` are events taken in.

    `ready` is another question: whether it takes events now; if not, `not_ready` says why. A destination that is down
    makes the pipeline unhealthy at once, and not ready only when the buffer has no more room for its events.
    `holds` are the parts that hold up what comes in, each with why; `seconds` says for how long a part is unhealthy, or
    does so. `causes` says of what kind the trouble of parts is, `drops` of those that may drop events by which rule
    they do and how many they have dropped. `warnings` are of parts that work, and lose events by a rule.
    `next_attempts` has the seconds until an emitter that waits after a failure tries again.
    """

    healthy: bool
    components: Mapping[str, tuple[bool, str]]
    processed: int
    ready: bool = True
    not_ready: str = ""
    holds: Mapping[str, str] = {}
    seconds: Mapping[str, float] = {}
    causes: Mapping[str, Cause] = {}
    drops: Mapping[str, tuple[str, int]] = {}
    warnings: Mapping[str, str] = {}
    next_attempts: Mapping[str, float] = {}

    def public(self) -> Health:
        """Return what everybody may know: which parts are well, and none of the texts, which may hold secrets."""
        parts = {name: (healthy, "ok" if healthy else _UNTOLD) for name, (healthy, _) in self.components.items()}
        not_ready = "not ready" if self.not_ready else ""
        parts_told = self._replace(components=parts, not_ready=not_ready)
        return parts_told._replace(holds={}, seconds={}, causes={}, drops={}, warnings={}, next_attempts={})

    def with_next_attempt(self, name: str, text: str) -> str:
        """Return what is wrong with a part, and when it tries again, where it waits for that."""
        again = next_attempt(self.next_attempts.get(name, 0.0))
        return f"{text}; {again}" if again else text


def away(part: str, why: str) -> Health:
    """Return the health of a pipeline that is gone: it is not ready, for one part's reason."""
    return Health(False, {part: (False, why)}, 0, ready=False, not_ready=why)


def health_response(health: Health, uptime: float) -> HealthResponse:
    """Return the answer to `Gateway.Health`; `uptime` is in seconds."""
    components = {
        name: ComponentHealth(healthy=healthy, message=message)
        for name, (healthy, message) in health.components.items()
    }
    return HealthResponse(
        healthy=health.healthy,
        components=components,
        uptime_seconds=int(uptime),
        events_processed=health.processed,
    )
