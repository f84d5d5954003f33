"""Say in the log when an emitter's outlet begins to drop events by its rule, and how many it dropped when it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from polku.log import RepeatedLog

_LOG = logging.getLogger(__name__)
_END_SECONDS = 5.0  # without a drop, until that counts as over


class _Run(Struct):
    since: float
    until: float
    rule: str
    dropped: int = 0


class Dropping:
    """Follow what outlets drop, from looks about once a second; lines that repeat are counted instead."""

    def __init__(self, log: RepeatedLog | None = None) -> None:
        self._log = log or RepeatedLog(_LOG)
        self._totals: dict[str, int] = {}
        self._runs: dict[str, _Run] = {}

    def look(
        self, drops: Mapping[str, tuple[str, int]], now: float | None = None, helps: Callable[[str], str] | None = None
    ) -> None:
        """Take the rule of each emitter that may drop, and how many it has dropped; `now` is of a monotonic clock.

        `helps` says what is to be done about one, by its name.
        """
        now = time.monotonic() if now is None else now
        for name, (rule, total) in drops.items():
            before = self._totals.get(name, 0)
            new = total - before if total >= before else total  # its process was started again
            self._totals[name] = total
            if new:
                self._see(name, rule, new, now, helps)
        for name, run in list(self._runs.items()):
            if now - run.until >= _END_SECONDS or name not in drops:
                self._end(name, run)
        self._totals = {name: total for name, total in self._totals.items() if name in drops}

    def _see(self, name: str, rule: str, new: int, now: float, helps: Callable[[str], str] | None) -> None:
        run = self._runs.get(name)
        if run is None:
            run = self._runs[name] = _Run(now, now, rule)
            text = "%s drops events since %s: its share of the buffer is full, and its rule is %s%s"
            advice = helps(name) if helps is not None else ""
            since = datetime.now(UTC).strftime("%H:%M:%SZ")
            self._log.warning((name, "begins"), text, name, since, rule, f". {advice}" if advice else "")
        run.until = now
        run.dropped += new

    def _end(self, name: str, run: _Run) -> None:
        del self._runs[name]
        seconds = run.until - run.since
        text = "%s dropped %d events in %.0f s, as its rule is %s; it is over"
        self._log.warning((name, "ends"), text, name, run.dropped, seconds, run.rule)
