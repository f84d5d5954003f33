"""How a pipeline is, as a whole and part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Health(NamedTuple):
    """Say whether the pipeline works, and each part of it with a sentence; `processed` are events taken in."""

    healthy: bool
    components: Mapping[str, tuple[bool, str]]
    processed: int
