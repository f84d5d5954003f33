"""When a few events should wait for more, since a small batch costs nearly as much as a large one.

Two rules, neither of which is a timer. While a batch is under way, small ones wait until it is answered, as Nagle's
algorithm (RFC 896) has it for small packets. And where messages come side by side, a small batch also waits until none
has come for some turns of the event loop: each turn brings one at most, so that 32 unary calls that are in flight would
otherwise leave one by one. A message that comes alone leaves at once.

Measured inline on two cores: of 32 unary calls in flight 3,900 a second without and 9,100 with it, where a server that
only echoes does 9,700; of messages of ten events 45,000 and 75,000 events a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

_ROUND_TRIP = 150e-6  # seconds: no client on a socket reads an answer and sends the next message sooner


class Backlog(NamedTuple):
    """What waits at a link now."""

    batches: int
    events: int


class Gathering:
    """Say whether what waits at a link should wait for more, and have it looked at again when it need not any more.

    Fewer than `events` are few; `turns` without anything new are quiet. `look` tells what waits, `pump` sends it.
    """

    def __init__(self, events: int, turns: int, look: Callable[[], Backlog], pump: Callable[[], None]) -> None:
        self._events, self._turns = events, turns
        self._look, self._pump = look, pump
        self._several = False  # whether the latest push was of several batches, or left some waiting
        self._answered_at = 0.0
        self._quiet = 0
        self._listening: asyncio.Task[None] | None = None

    def holds(self, is_under_way: bool) -> bool:
        """Say whether what waits has to wait; `is_under_way`: enough is under way to keep the receiver busy."""
        batches, events = self._look()
        if events >= self._events:
            return False
        if is_under_way:
            return True
        if self._quiet >= self._turns or not self._come_several(batches):
            return False
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        return True

    def pushed(self, batches: int, left: int) -> None:
        """Learn how many batches left as one, and how many were left behind."""
        self._several = batches + left > 1

    def answered(self) -> None:
        """Learn that an answer has come."""
        self._answered_at = time.monotonic()

    def close(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.cancel()

    def _come_several(self, batches: int) -> bool:
        """Say whether messages come side by side: sooner after the latest answer than who was answered could send."""
        return self._several or batches > 1 or time.monotonic() - self._answered_at < _ROUND_TRIP

    async def _listen(self) -> None:
        have = self._look()
        while self._quiet < self._turns and have.events < self._events:
            await asyncio.sleep(0)
            before, have = have, self._look()
            self._quiet = self._quiet + 1 if have.batches == before.batches else 0
        self._listening = None
        self._pump()
        self._quiet = 0
