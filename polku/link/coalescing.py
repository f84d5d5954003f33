"""When a few events should wait for more, since a small batch costs nearly as much as a large one.

Two rules. While a batch is in flight, small ones wait until it is answered, as Nagle's algorithm (RFC 896) has it for
small packets. And where messages come side by side, a small batch also waits until none has come for some turns of the
event loop, but no longer than four times so many: each turn brings one at most, so that 32 unary calls that are in
flight would otherwise leave one by one. Eight messages in a row that waited for nobody come alone; what comes then
leaves at once, but for one in 128, which waits to find out whether that is still so.

Measured on two cores (in turns) with 32 unary calls in flight: inline 1,350 a second without, 4,000 with it, where 24
or 48 turns do the same within the noise and 16 a twentieth less (a slow day). On Ray, over sockets and with a
server that hands on calls in batches, 8,900 with up to 768 events and 40 turns, 8,000 with 100 turns, 7,700 with up to
128 events; messages of ten events came through alike, 30,000 to 33,000 events a second, whatever the rule. (Where hops
are calls of Ray, which cost several times as much, 300 turns gave a sixth more than 40.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from polku.link.backlog import SendQueue

_BUSY_SECONDS = 0.05  # so long small batches wait for the answer to one that is in flight
_ALONE = 8
_TRY = 128
_PATIENCE = 4


class Backlog(NamedTuple):
    """What waits at a link now."""

    batches: int
    events: int


class ReceiverLoad:
    """Whether a receiver has enough to do, by what is in flight to it and since when (`sent_at`, by the loop's clock).

    `pump` is called when that may have changed because time has passed.
    """

    def __init__(self, queue: SendQueue, pump: Callable[[], None]) -> None:
        self._queue = queue
        self._pump = pump
        self.sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def is_busy(self) -> bool:
        """Return whether enough is in flight to keep the receiver busy, and small batches should wait for its answer.

        Not for one that takes long: what it waits for may be nothing to those behind it.
        """
        if 2 * len(self._queue.in_window) < self._queue.window.batches:
            return False
        loop = asyncio.get_running_loop()
        if loop.time() >= self.sent_at + _BUSY_SECONDS:
            return False
        if self._timer is None:
            self._timer = loop.call_at(self.sent_at + _BUSY_SECONDS, self._look_again)
        return True

    def close(self) -> None:
        """Call `pump` no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_again(self) -> None:
        self._timer = None
        self._pump()


class Coalescer:
    """Return whether what waits at a link should wait for more, and have it looked at again when it need not any more.

    Fewer than `events` are few; `turns` without anything new are quiet. `look` tells what waits, `pump` sends it.
    """

    def __init__(self, events: int, turns: int, look: Callable[[], Backlog], pump: Callable[[], None]) -> None:
        self._events, self._turns = events, turns
        self._look, self._pump = look, pump
        self._alone = _TRY - _ALONE  # pushes of one message in a row
        self._quiet = self._left = self._seen = 0
        self._next: asyncio.Handle | None = None

    def holds(self, is_under_way: bool) -> bool:
        """Return whether what waits has to wait; `is_under_way`: enough is in flight to keep the receiver busy."""
        batches, events = self._look()
        if events >= self._events:
            return False
        if is_under_way:
            return True
        if self._quiet >= self._turns or not (batches > 1 or self._come_several()):
            return False
        if self._next is None:
            self._left, self._seen = self._turns * _PATIENCE, batches
            self._next = asyncio.get_running_loop().call_soon(self._listen)
        return True

    def pushed(self, batches: int, left: int) -> None:
        """Learn how many batches left as one, and how many were left behind."""
        self._alone = 0 if batches + left > 1 else self._alone + 1

    def close(self) -> None:
        """Stop listening."""
        if self._next is not None:
            self._next.cancel()

    def _come_several(self) -> bool:
        return self._alone < _ALONE or self._alone % _TRY == 0

    def _listen(self) -> None:
        """Look once a turn of the event loop whether something came, and pump when nothing has for some turns."""
        self._left -= 1
        batches, events = self._look()
        self._quiet = self._quiet + 1 if batches == self._seen else 0
        self._seen = batches
        if self._quiet < self._turns and events < self._events and self._left:
            self._next = asyncio.get_running_loop().call_soon(self._listen)
            return
        self._next, self._quiet = None, self._turns
        try:
            self._pump()
        finally:
            self._quiet = 0
