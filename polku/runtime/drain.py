"""How long a drain may take: what was accepted is delivered, or kept, within it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from polku.errors import SettingError

DRAIN_SECONDS = 30.0


def drain_seconds(chosen: float | None, environment: Mapping[str, str]) -> float:
    """Return how long a drain may take; raises `SettingError`."""
    if chosen is not None:
        return check_seconds("drain", chosen)
    text = environment.get("POLKU_DRAIN_SECONDS", "").strip()
    return check_seconds("POLKU_DRAIN_SECONDS", text) if text else DRAIN_SECONDS


def check_seconds(name: str, value: str | float) -> float:
    """Return a number of seconds; raises `SettingError`."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds < math.inf:
        raise SettingError(name, value, "write a number of seconds, 0 or more")
    return seconds
