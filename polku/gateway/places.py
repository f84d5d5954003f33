"""Shares of a port: no address can take all of its places or bytes, and the client that is idle longest makes room."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from polku.log import RepeatedLog

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_LOOK_SECONDS = 1.0
_BUSY_SECONDS = 1.0  # who did something so short ago is not idle
_UNUSED_SECONDS = 1.0  # idle for so long, what was never used makes room for another one


class Occupant(Protocol):
    """A connection or a stream that has a place."""

    @property
    def idle_since(self) -> float | None:
        """When it last did something, by the monotonic clock; None while it sends or waits for an answer."""

    @property
    def is_used(self) -> bool:
        """Whether it has ever brought anything: what has not makes room sooner."""

    def make_room(self, reason: str) -> None:
        """End it, since another one needs its place."""


class Places:
    """Count what is open, in all and by address.

    Where all places are taken, one that has been idle for `idle_seconds` makes room, or for a second where it was never
    used: of the address that has the most. One of an address that has more than twice as many as the newcomer's does
    so as soon as it is idle. Where all places of one address are taken, an idle one of its own makes room.
    `total` and `each` are the limits, of the port and of one address.
    """

    def __init__(
        self,
        what: str,
        *,
        total: int,
        each: int,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._occupants: dict[str, set[Occupant]] = {}
        self._count = 0
        self._next_look = -math.inf
        self.refused = 0
        self.displaced = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, address: str, occupant: Occupant) -> str:
        """Take a place; return why there is none, empty where there is: then it must `leave` at its end."""
        own = self._occupants.get(address, set())
        if self._count >= self._total:
            if not (self._make_room_of_largest(len(own)) or self._make_room_in_all()):
                return self._refuse(f"{self._total} {self._what} are open; close some")
        elif len(own) >= self._each and not self._make_room({address: own}):
            return self._refuse(f"{self._each} {self._what} are open from {address or 'one address'}; close some")
        self._occupants.setdefault(address, set()).add(occupant)
        self._count += 1
        return ""

    def leave(self, address: str, occupant: Occupant) -> None:
        """Give a place back; nothing happens where it has none any more."""
        own = self._occupants.get(address)
        if own is not None and occupant in own:
            own.remove(occupant)
            self._count -= 1
            if not own:
                del self._occupants[address]

    def _refuse(self, reason: str) -> str:
        self.refused += 1
        _REPEATED.warning((self._what, "refused"), "refused: %s", reason)
        return reason

    def _make_room_of_largest(self, own: int) -> bool:
        """Look for one that is not busy at the address that has the most, if those are many more than one's own."""
        address, others = max(self._occupants.items(), key=lambda item: len(item[1]))
        if len(others) <= 2 * (own + 1):
            return False
        oldest = min(others, key=self._idle_since)
        if self._idle_since(oldest) > self._clock() - min(_BUSY_SECONDS, self._idle_seconds):
            return False
        self._displace(address, oldest)
        return True

    def _make_room_in_all(self) -> bool:
        """Look for an idle one everywhere; where none is found not again for a second: a look takes milliseconds."""
        now = self._clock()
        if now < self._next_look:
            return False
        found = self._make_room(self._occupants)
        if not found:
            self._next_look = now + _LOOK_SECONDS
        return found

    def _make_room(self, occupants: Mapping[str, set[Occupant]]) -> bool:
        before = self._clock() - self._idle_seconds
        for address, own in sorted(occupants.items(), key=lambda item: len(item[1]), reverse=True):
            oldest = min(own, key=self._idle_since)
            if self._idle_since(oldest) <= before:
                self._displace(address, oldest)
                return True
        return False

    def _idle_since(self, occupant: Occupant) -> float:
        """Return since when it is idle, longer ago where it was never used; infinity where it is busy."""
        since = occupant.idle_since
        if since is None:
            return math.inf
        return since if occupant.is_used else since - max(0.0, self._idle_seconds - _UNUSED_SECONDS)

    def _displace(self, address: str, occupant: Occupant) -> None:
        self.leave(address, occupant)
        self.displaced += 1
        reason = f"all places for {self._what} are taken, and this one was idle; open it again when needed"
        _REPEATED.warning((self._what, "displaced"), "an idle one of %s makes room: %s", address, reason)
        occupant.make_room(reason)


class ByteShares:
    """Count bytes that are held for clients, in all and by address."""

    def __init__(self, what: str, *, total: int, each: int) -> None:
        self._what = what
        self._limits = (("in all", total), ("from one address", each))
        self._by_address: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, address: str, size: int) -> str:
        """Count bytes more, or fewer; return which limit is passed, empty where none is."""
        self._count += size
        own = self._by_address.get(address, 0) + size
        if own:
            self._by_address[address] = own
        else:
            self._by_address.pop(address, None)
        for (where, limit), count in zip(self._limits, (self._count, own), strict=True):
            if size > 0 and count > limit:
                return f"{self._what} take more than {limit} bytes {where}; send fewer at once"
        return ""

    def is_over(self, address: str) -> bool:
        """Return whether a limit is passed."""
        counts = (self._count, self._by_address.get(address, 0))
        return any(count > limit for (_, limit), count in zip(self._limits, counts, strict=True))


def connections_within(limit: int) -> int:
    """Return the connections that one port may have: three eighths of this process's descriptors at most.

    Two ports then leave a quarter of them to destinations and files.
    """
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if descriptors == resource.RLIM_INFINITY else max(1, min(limit, descriptors * 3 // 8))


def raise_descriptors() -> None:
    """Let this process have the descriptors that it may have, up to 65,536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return
