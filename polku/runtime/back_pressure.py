"""Say in the log when back-pressure begins and when it ends: who holds up whom, why, and for how long."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from msgspec import Struct

from polku.log import RepeatedLog
from polku.runtime.unhealthy import Remedy

_LOG = logging.getLogger(__name__)
_BEGIN_SECONDS = 0.55  # at every look, until a part that holds others up is named: a full share may be one that moves
_STANDS_SECONDS = 0.25  # the same while no events are taken
_END_SECONDS = 5.0  # at no look, until that counts as over


class _Hold(Struct):
    since: float
    until: float
    is_named: bool = False


class BackPressure:
    """Follow which parts hold up others, from looks about once a second, or sooner while one `is_waiting`.

    Lines that repeat are counted instead. `is_waiting` says whether another look may make it say something.
    """

    def __init__(self, log: RepeatedLog | None = None) -> None:
        self._log = log or RepeatedLog(_LOG)
        self._holds: dict[str, _Hold] = {}
        self.is_waiting = False

    def look(
        self,
        holds: Mapping[str, str],
        now: float | None = None,
        remedy: Remedy | None = None,
        *,
        is_ready: bool = True,
    ) -> None:
        """Take note of who holds up others now, by name, and why; `now` is in seconds of a monotonic clock.

        Where the pipeline is not ready, nothing moves any more: that is said sooner.
        """
        now = time.monotonic() if now is None else now
        begin = _BEGIN_SECONDS if is_ready else _STANDS_SECONDS
        for name, why in holds.items():
            self._see(name, why, now, begin, remedy)
        for name in self._holds.keys() - holds.keys():
            self._miss(name, now)
        self.is_waiting = any(not self._holds[name].is_named for name in holds)

    def _see(self, name: str, why: str, now: float, begin: float, remedy: Remedy | None) -> None:
        hold = self._holds.setdefault(name, _Hold(now, now))
        hold.until = now
        if not hold.is_named and now - hold.since >= begin:
            hold.is_named = True
            helps = remedy(name, why, why) if remedy is not None else ""
            text = "back-pressure: %s holds up what comes in: %s%s"
            self._log.warning((name, "begins"), text, name, why, f". {helps}" if helps else "")

    def _miss(self, name: str, now: float) -> None:
        hold = self._holds[name]
        if hold.is_named and now - hold.until < _END_SECONDS:
            return
        del self._holds[name]
        if hold.is_named:
            text = "back-pressure: %s held up what comes in for %.0f s; it is over"
            self._log.warning((name, "ends"), text, name, hold.until - hold.since)
