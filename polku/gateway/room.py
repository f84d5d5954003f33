"""Whether a message may come in now: what is in flight has a limit in bytes, and at the end nothing comes in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from polku.codes import Code
from polku.errors import DrainingError, InputError
from polku.gateway.intake_statistics import IntakeCounters
from polku.limits import Limits
from polku.link.link import Link

_STOPPING = "the pipeline is stopping; send to another gateway, or again later"


class Room:
    """Hold messages back, or refuse them, while `limits.open_bytes` are in flight."""

    def __init__(self, limits: Limits, counters: IntakeCounters, link: Link) -> None:
        self._limits = limits
        self._counters = counters
        self._link = link
        self._freed = asyncio.Event()
        self.draining = False

    def bound(self, limits: Limits) -> None:
        """Hold what comes from now on to these limits."""
        self._limits = limits
        self._freed.set()

    def check(self, size: int) -> None:
        """Count a message of `size` bytes that has room; raises `InputError`."""
        self._counters.messages += 1
        if self.draining:
            raise InputError(Code.DRAINING, _STOPPING)
        if size > self._limits.message_bytes:
            limit = self._limits.message_bytes
            raise InputError(Code.TOO_LARGE, f"message: {size} bytes, the limit is {limit}; send smaller ones")

    def has_room(self, size: int) -> bool:
        """Return whether `check_request` has nothing against a message of `size` bytes; nothing is counted."""
        return not self.draining and size <= self._limits.message_bytes and not self._is_full(size)

    def check_request(self, size: int) -> None:
        """Count a message of `size` bytes that cannot wait; raises `InputError` and `DrainingError`."""
        if self.draining:
            self._counters.refuse(Code.DRAINING)
            raise DrainingError(_STOPPING)
        self.check(size)
        if self._is_full(size):
            reason = f"{self._counters.open_bytes} bytes are under way already; send again later"
            raise InputError(Code.BUFFER_FULL, reason)

    async def wait(self, size: int) -> None:
        """Return when there is room for a message of `size` bytes."""
        while self._is_full(size):
            self._freed.clear()
            await self._freed.wait()
        # Events are decoded just before they can leave: decoded early they would cool down in memory (0.5 µs each).
        await self._link.wait_backlog()

    def free(self) -> None:
        """Let those who wait look again: fewer bytes are in flight."""
        self._freed.set()

    @contextlib.contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Count bytes as in flight while an ingestor reads them; pushed, they count as its events'."""
        self.hold(size)
        try:
            yield
        finally:
            self.release(size)

    def hold(self, size: int) -> None:
        """Count bytes as in flight."""
        self._counters.open_bytes += size

    def release(self, size: int) -> None:
        """Count them so no more."""
        self._counters.open_bytes -= size
        self._freed.set()

    def _is_full(self, size: int) -> bool:
        return self._counters.open_bytes > 0 and self._counters.open_bytes + size > self._limits.open_bytes
