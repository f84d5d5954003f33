"""Say in the log when a part becomes unhealthy, why, and what helps; and when it is well again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from msgspec import Struct

from polku.health import DRAINING, Cause, Health
from polku.log import RepeatedLog

Remedy = Callable[[str, str, str], str]
"""Return what helps a part, by its name, what is wrong with it, and why it holds up others."""

_LOG = logging.getLogger(__name__)
_BEGIN_SECONDS = 0.25  # at every look, until it is said: at the second of two looks; but a process that ended, at once
_END_SECONDS = 2.0  # at no look, until it counts as well again
_SAYS_SO = ("reload",)  # parts whose trouble is in the log already


class _Illness(Struct):
    since: float
    until: float
    is_said: bool = False


class UnhealthyParts:
    """Follow how the parts are, from looks about once a second, or sooner while one `is_waiting`.

    Lines that repeat are counted instead. Of parts that hold up others `BackPressure` tells. `is_waiting` says whether
    another look may make it say something.
    """

    def __init__(self, log: RepeatedLog | None = None) -> None:
        self._log = log or RepeatedLog(_LOG)
        self._unhealthy: dict[str, _Illness] = {}
        self.is_waiting = False

    def look(self, health: Health, remedy: Remedy, now: float | None = None) -> None:
        """Take note of how the parts are now; `now` is in seconds of a monotonic clock."""
        now = time.monotonic() if now is None else now
        unhealthy = {name for name, (well, text) in health.components.items() if not well and text != DRAINING}
        unhealthy.difference_update(_SAYS_SO)
        for name in unhealthy:
            self._see(name, health, remedy, now)
        for name in self._unhealthy.keys() - unhealthy:
            self._miss(name, now)
        self.is_waiting = any(not self._unhealthy[name].is_said and name not in health.holds for name in unhealthy)

    def _see(self, name: str, health: Health, remedy: Remedy, now: float) -> None:
        illness = self._unhealthy.setdefault(name, _Illness(now, now))
        illness.until = now
        begin = 0.0 if health.causes.get(name) is Cause.ENDED else _BEGIN_SECONDS
        if not illness.is_said and name not in health.holds and now - illness.since >= begin:
            illness.is_said = True
            text = health.components[name][1]
            helps = remedy(name, text, "")
            text = health.with_next_attempt(name, text)
            self._log.warning((name, "begins"), "%s is unhealthy: %s%s", name, text, f". {helps}" if helps else "")

    def _miss(self, name: str, now: float) -> None:
        illness = self._unhealthy[name]
        if illness.is_said and now - illness.until < _END_SECONDS:
            return
        del self._unhealthy[name]
        if illness.is_said:
            self._log.warning(
                (name, "ends"), "%s is well again, after %.0f s", name, max(1.0, illness.until - illness.since)
            )
