"""Count who could not say who it is, and let an address that fails often wait for its answers."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from polku.log import RepeatedLog

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_ADDRESSES = 10_000
_FREE = 5  # failures of one address that are answered at once
_FORGOTTEN_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Failures:
    """Failed authentications by address; those of the latest 10,000 addresses are known.

    `count` says how many there were, `slowed` how many of them had to wait for their answer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = self.slowed = 0
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def add(self, address: str, reason: str) -> float:
        """Count one, and return how many seconds its answer has to wait; good tokens of the address never do."""
        self.count += 1
        now = self._clock()
        count, then = self._failed.pop(address, (0, now))
        count = count + 1 if now - then < _FORGOTTEN_SECONDS else 1
        self._failed[address] = (count, now)
        if len(self._failed) > _ADDRESSES:
            self._failed.popitem(last=False)
        _REPEATED.warning("unauthenticated", "a client of %s is refused: %s", address or "a Unix socket", reason)
        if count <= _FREE:
            return 0.0
        self.slowed += 1
        pause: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(count - _FREE - 1, 10))
        return pause
