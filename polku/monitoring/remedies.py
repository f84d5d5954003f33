"""Say what helps a part that is unhealthy: a sentence, and where there is one, the command to type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os.path import dirname
from urllib.parse import urlsplit

from polku.buffer.strategy import Overflow
from polku.health import DRAINING, Cause
from polku.monitoring.quoting import quoted
from polku.monitoring.statistics import PlanStatistics

_LANE = re.compile(r"lane-[1-9][0-9]*/")
_DISK = ("disk", "space", "quota")

_CAUSES = {
    Cause.SETTINGS: "Fix its address, credentials or permissions; until then it is tried again at the slowest pace.",
    Cause.CODE: "Its code raises: events for which it always does become dead letters, with the traceback.",
    Cause.GIVES_UP: "Events for which every attempt fails become dead letters.",
}

_SLOW = (
    "It takes less than comes: give it a greater concurrency or faster destination, give the buffer a larger capacity, "
    "or let %s."
)
_WAIT, _LAG = "senders wait: overflow='block'", "it lag alone: overflow='drop_oldest'"

_LOOK = "See whether it runs and can be reached."

_STARTED = (
    "It is started again by itself, and what was in flight is sent again; an event that ends it each time becomes a "
    "dead letter (POISON)."
)

Remedy = tuple[str, str]


class Remedies:
    """Find what helps the parts of a plan; `pids` are those of its processes."""

    def __init__(self, plan: PlanStatistics, pids: Mapping[str, int]) -> None:
        self._plan = plan
        self._pids = pids
        self._parts = {part.name: part for part in plan.parts}

    def find(
        self, name: str, complaint: str, holds_up: str, cause: Cause | None = None, *, is_slow: bool = False
    ) -> Remedy:
        """Return what is to be done about a part, and the command, which may be empty.

        `complaint` is what is wrong with it, `holds_up` why it holds up others, `cause` of what kind an emitter's is.
        An emitter that `is_slow` works, and its rule drops events, or it holds up others.
        """
        part = _LANE.sub("", name, count=1)
        kind = part.partition(":")[0]
        if cause is Cause.ENDED:
            return _STARTED, ""
        if "not answer" in complaint or "cannot start" in complaint:
            return "It is started again by itself. If that does not help, its own log says why.", ""
        match kind:
            case "emitter" if is_slow:
                return _SLOW % (_LAG if holds_up else _WAIT), ""
            case "emitter":
                return self._emitter(part, holds_up, cause)
            case "source" | "ingestor":
                return "It is asked again by itself. Look whether it runs and can be reached.", self._reach(part)
            case "dead_letters":
                return self._letters()
            case "buffer":
                return self._buffer(complaint)
            case "ingest" if complaint == DRAINING:
                return "It ends once what it holds is delivered, or its time for that is over.", ""
            case "ingest":
                return "Look at the parts behind it: one of them takes nothing.", ""
            case _ if part.startswith("stage") or part == "event_loop":
                advice = f"{_who(part, complaint)} See where it stands:"
                return advice, f"py-spy dump --pid {pid}" if (pid := self._pid(name)) else ""
        return "", ""

    def say(
        self, name: str, complaint: str, holds_up: str, cause: Cause | None = None, *, is_slow: bool = False
    ) -> str:
        """Return the same as one text, for a line of the log."""
        return " ".join(filter(None, self.find(name, complaint, holds_up, cause, is_slow=is_slow)))

    def _emitter(self, part: str, holds_up: str, cause: Cause | None) -> Remedy:
        planned = self._parts.get(part)
        overflow = planned.overflow if planned is not None else ""
        if holds_up and overflow in ("", Overflow.BLOCK):
            repair = "Repair its code" if cause is Cause.CODE else "Repair its destination"
            advice = f"{repair}, or let {_LAG}."
        else:
            look = _CAUSES.get(cause or Cause.UNKNOWN) or (_LOOK if self._reach(part) else "")
            advice = " ".join(filter(None, (look, _kept(overflow, cause))))
        if cause is Cause.CODE:
            path = self._plan.dead_letters
            return advice, f"polku dlq list {quoted(path)} --emitter={quoted(part.partition(':')[2])}" if path else ""
        return advice, self._reach(part)

    def _reach(self, part: str) -> str:
        """Return the command that shows whether the destination of a part can be reached."""
        planned = self._parts.get(part)
        place = planned.destination.partition(",")[0] if planned is not None else ""
        url = urlsplit(place if "://" in place else f"//{place}")
        if url.scheme in ("http", "https"):
            return f"curl -sS -o /dev/null -w '%{{http_code}}\\n' {quoted(place)}"
        if url.hostname and url.port:
            return f"nc -vz {quoted(url.hostname)} {url.port}"
        return ""

    def _letters(self) -> Remedy:
        path = self._plan.dead_letters
        advice = "Look at them, then replay or drop them; dead_letters(max_events=…) makes room for more."
        return advice, f"polku dlq list {quoted(path)}" if path else ""

    def _buffer(self, complaint: str) -> Remedy:
        journal = self._plan.journal
        if any(word in complaint.lower() for word in _DISK) and "malformed" not in complaint:
            return (
                "Make room on the disk of the journal; it goes on by itself.",
                f"df -h {quoted(dirname(journal) or '.')}",
            )
        return "See whether the journal is whole:", f"polku journal verify {quoted(journal)}" if journal else ""

    def _pid(self, name: str) -> int | None:
        """Return the process of a part: its own, that of its lane, or the only one."""
        lane = name.partition("/")[0]
        return self._pids.get(name) or self._pids.get(lane) or self._pids.get("lane") or self._pids.get("pipeline")


def _who(part: str, complaint: str) -> str:
    """Return what keeps a stage, or the event loop, from turning."""
    if part != "event_loop":
        return "Its middleware works on one batch for long, or waits."
    if "something blocks it" in complaint:
        return "It is in no code of yours: the machine may have too little CPU or memory for what comes."
    return "The code that it names works on one batch for long, or waits."


def _kept(overflow: str, cause: Cause | None) -> str:
    """Return what becomes of events that wait for an emitter."""
    is_room = "What waits for it is kept"
    if overflow == Overflow.DROP_OLDEST:
        return f"{is_room} while its share of the buffer has room; then the oldest events are dropped: drop_oldest."
    if overflow == Overflow.DROP_NEWEST:
        return f"{is_room} while its share of the buffer has room; then new events are dropped: drop_newest."
    if cause in (Cause.CODE, Cause.GIVES_UP):
        return ""
    then = "that is done" if cause is Cause.SETTINGS else "its destination takes events again"
    return f"{is_room}, and sent once {then}."
