"""How a pipeline is, as a whole and part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from polku.v1.gateway_pb2 import ComponentHealth, HealthResponse


class Health(NamedTuple):
    """Return whether the pipeline works, and each part of it with a sentence; `processed` are events taken in."""

    healthy: bool
    components: Mapping[str, tuple[bool, str]]
    processed: int


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
