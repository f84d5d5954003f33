"""What waits at a link, and the window that it waits for."""

from __future__ import annotations

import asyncio
from collections import deque

from msgspec import Struct

from polku.batch.batch import Batch
from polku.batch.receipt import Receipt


class Window(Struct, frozen=True):
    """Bound a link: batches and bytes in flight, events and bytes joined into one batch.

    Fewer than `gather_events` wait for more, as `Coalescer` says: while half of the window is in flight, and where they
    come side by side until none has come for `gather_turns` of the event loop.

    Measured as a chain of four actors on two cores, in turns. Over sockets a window of 2 and joins of 3,072 to 8,192
    events gave 421,000 to 452,000 events a second, which is one number on that machine, and so did windows of 1 and 4:
    both cores are busy anyhow, but a window of 1 would leave a core idle where there are more. Smaller and larger joins
    gave less: 2,048 events a sixth, 12,288 (1.9 MB) too. By calls of Ray, as between nodes, it matters: one costs
    0.8 ms, whatever is in it, and 0.5 ms more for 800 kB, but 3 ms more for 1.5 MB, so that 6,144 events or just under
    a megabyte gave 520,000 events a second where 4,096 or half a megabyte gave 455,000, and 2 beat 1 and 4.
    """

    batches: int = 2
    bytes: int = 8 * 1024 * 1024
    join_events: int = 6144
    join_bytes: int = 960 * 1024
    gather_events: int = 0
    gather_turns: int = 0


class Waiting(Struct, frozen=True):
    """A batch that was pushed, its size in bytes, and the future of its answer."""

    batch: Batch
    size: int
    answer: asyncio.Future[Receipt]


class SendQueue:
    """The batches that wait at a link, and the bytes of those that are in its window, by their numbers."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.waiting: deque[Waiting] = deque()
        self.events = 0  # that wait
        self.in_window: dict[int, int] = {}

    def has_place(self, size: int) -> bool:
        """Return whether a batch of `size` bytes may be in flight with those that are."""
        if not self.in_window:
            return True
        if len(self.in_window) >= self.window.batches:
            return False
        return sum(self.in_window.values()) + size <= self.window.bytes

    def next_joined(self) -> tuple[list[Waiting], int]:
        """Take what may leave as one batch from what waits; return it with its bytes."""
        waiting, window = self.waiting, self.window
        joined = [waiting.popleft()]
        events, size = len(joined[0].batch), joined[0].size
        limit = min(window.join_bytes, window.bytes - sum(self.in_window.values()))
        while waiting:
            more, larger = events + len(waiting[0].batch), size + waiting[0].size
            if more > window.join_events or larger > limit:
                break
            joined.append(waiting.popleft())
            events, size = more, larger
        self.events -= events
        return joined, size
