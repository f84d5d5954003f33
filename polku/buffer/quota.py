"""What one outlet may hold of the buffer."""

from __future__ import annotations

from typing import NamedTuple

from polku.buffer.strategy import Overflow


class Quota(NamedTuple):
    """What one outlet may hold: events, bytes, and the rule for what does not fit."""

    events: int
    bytes: int
    overflow: Overflow
