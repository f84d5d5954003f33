"""What one principal does at one port: its rights, what is left of its rate, and what it has open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from polku.codes import Code
from polku.errors import InputError
from polku.security.rights import Patterns, Rights

_SECONDS = 1.0  # of the rate that may be sent at once
_LONGEST_WAIT = 1.0  # before the rate is looked at again: it may have been changed meanwhile


class Rate:
    """A token bucket that may be overdrawn by one message, so that a large one gets through a small rate too."""

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._left = limit * _SECONDS
        self._then = now

    def wait(self, now: float) -> float:
        """Return after how many seconds the next message may come; 0: now."""
        self._left = min(self._limit * _SECONDS, self._left + (now - self._then) * self._limit)
        self._then = now
        return max(0.0, -self._left / self._limit)

    def take(self, amount: int, now: float) -> None:
        """Count what was sent."""
        self.wait(now)
        self._left -= amount


class Account:
    """Keep one principal's books; what is over its limits is refused by name."""

    def __init__(
        self,
        name: str,
        rights: Rights,
        *,
        stamp: str = "",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.stamp = stamp
        self.refused = 0
        self._clock = clock
        self._sleep = sleep
        self._streams = 0
        self._connections = 0
        self.change(rights)

    def change(self, rights: Rights) -> None:
        """Let other rights count from now on; what is open stays."""
        if getattr(self, "rights", None) == rights:
            return
        now = self._clock()
        self.rights = rights
        self.sources = Patterns(rights.sources)
        self.clusters = Patterns(rights.clusters)
        self.plugins = Patterns(rights.plugins)
        limits = (("events", rights.events_per_second), ("bytes", rights.bytes_per_second))
        self._rates = {what: Rate(limit, now) for what, limit in limits if limit is not None}

    def check_rate(self) -> None:
        """Raise `InputError` while the principal has sent more than its rate allows."""
        for what, rate in self._rates.items():
            seconds = rate.wait(self._clock())
            if seconds > 0:
                limit = getattr(self.rights, f"{what}_per_second")
                fix = f"send again in {seconds:.1f} s, or have the right raised"
                raise self._fault(Code.RATE_LIMITED, f"{what}_per_second={limit:g} is used up; {fix}")

    def may_send(self, source: str, cluster: str) -> bool:
        """Return whether `check_rate` and `check_origin` have nothing against a message; nothing is counted."""
        if any(rate.wait(self._clock()) > 0 for rate in self._rates.values()):
            return False
        return (not source or self.sources.fit(source)) and (not cluster or self.clusters.fit(cluster))

    async def wait_for_rate(self) -> None:
        """Return once the rate allows a message: what comes on a stream waits, and is not refused."""
        while seconds := max((rate.wait(self._clock()) for rate in self._rates.values()), default=0.0):
            await self._sleep(min(seconds, _LONGEST_WAIT))

    def count(self, events: int, size: int) -> None:
        """Count what was sent, whatever becomes of it."""
        for what, rate in self._rates.items():
            rate.take(events if what == "events" else size, self._clock())

    def enter_stream(self) -> str:
        """Count a stream; return why it is refused, empty where it is not: then it must `leave_stream`."""
        return self._enter("streams")

    def leave_stream(self) -> None:
        """Count a stream less."""
        self._streams -= 1

    def enter_connection(self) -> str:
        """Count a connection; return why it is refused, empty where it is not: then it must `leave_connection`."""
        return self._enter("connections")

    def leave_connection(self) -> None:
        """Count a connection less."""
        self._connections -= 1

    def check_origin(self, source: str, cluster: str) -> None:
        """Raise `InputError` where what a message as a whole comes from is not the principal's."""
        if source and not self.sources.fit(source):
            raise InputError(Code.PERMISSION_DENIED, self.origin_fault("source", source))
        if cluster and not self.clusters.fit(cluster):
            raise InputError(Code.PERMISSION_DENIED, self.origin_fault("cluster", cluster))

    def origin_fault(self, field: str, value: str) -> str:
        """Return what is wrong with a `source` or `cluster` that none of the patterns fits."""
        patterns = self.sources if field == "source" else self.clusters
        fix = f"allowed are {patterns}; send as one of them, or have it added to its `{field}s`"
        return self.sentence(f"{field}={value[:80]!r} is not among its {field}s; {fix}")

    def sentence(self, text: str) -> str:
        """Return a sentence about the principal."""
        return f"principal {self.name!r}: {text}"

    def _enter(self, what: str) -> str:
        limit = getattr(self.rights, what)
        count = getattr(self, f"_{what}")
        if limit is not None and count >= limit:
            self.refused += 1
            return self.sentence(f"{what}={limit} are open; close some, or have the right raised")
        setattr(self, f"_{what}", count + 1)
        return ""

    def _fault(self, code: Code, text: str) -> InputError:
        self.refused += 1
        return InputError(code, self.sentence(text))
