"""What is wrong with a pipeline, the worst first, in sentences; and the commands for its dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

from polku.monitoring.quoting import quoted
from polku.monitoring.statistics import PartHealth, PipelineStatistics, ProcessStatistics
from polku.monitoring.tree import Tree
from polku.text import next_attempt

_RECENT = 120.0  # seconds for which a restart is told
_RESTARTED = "its process was started again, and works"
_LOOK = "The log and this list say why. Repair what refuses them, or drop them."
_AGAIN = (
    "What was in flight is sent again; an event that ends it each time becomes a dead letter (POISON). The log has "
    "what it said last."
)


class Problem(Tree, frozen=True, kw_only=True):
    """A part and what is wrong with it, for how long, and what helps; `state` is `bad`, or `warn` where it works.

    `next_attempt` says when an emitter tries again, empty where it does not wait for that.
    """

    name: str
    state: str
    text: str
    seconds: float
    advice: str
    command: str
    next_attempt: str = ""


class Letters(Tree, frozen=True, kw_only=True):
    """The dead letters of an emitter and code, and the commands that list and replay them.

    What is kept in memory cannot be replayed: then `replay` is empty.
    """

    emitter: str
    code: str
    total: int
    forgotten: int
    look: str
    replay: str


class Restarts:
    """Remember when processes were seen to have been started again."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._at: dict[str, float] = {}

    def look(self, processes: Mapping[str, ProcessStatistics]) -> None:
        """Take note of restarts since the look before."""
        for name, process in processes.items():
            if process.restarts > self._times.get(name, process.restarts):
                self._at[name] = monotonic()
            self._times[name] = process.restarts

    def recent(self) -> dict[str, float]:
        """Return how many seconds ago each process was started again, of those for which that is not long ago."""
        now = monotonic()
        return {name: now - at for name, at in self._at.items() if now - at < _RECENT}


class Deaths:
    """Remember which dead letters there were lately, by emitter and code."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], int] | None = None
        self._lately: dict[str, tuple[float, dict[str, int], str]] = {}

    def look(self, tree: PipelineStatistics) -> None:
        """Take note of those that have come since the look before."""
        totals: dict[tuple[str, str], int] = {}
        reasons = {(one.emitter, one.code): one.reason for one in tree.dead_letters if one.reason}
        for one in tree.dead_letters:
            totals[one.emitter, one.code] = totals.get((one.emitter, one.code), 0) + one.total
        now, before = monotonic(), totals if self._totals is None else self._totals
        self._totals = totals
        self._lately = {name: seen for name, seen in self._lately.items() if now - seen[0] < _RECENT}
        for (emitter, code), total in totals.items():
            # A part whose process was started again counts from zero.
            more = total - known if total >= (known := before.get((emitter, code), 0)) else total
            if more:
                counts = self._lately[emitter][1] if emitter in self._lately else {}
                reason = reasons.get((emitter, code), "")
                self._lately[emitter] = now, {**counts, code: counts.get(code, 0) + more}, reason

    def recent(self, address: str) -> list[Problem]:
        """Return a problem for each emitter that has some; the command asks an admin address."""
        now = monotonic()
        return [
            _deaths(emitter, counts, reason, now - at, address)
            for emitter, (at, counts, reason) in sorted(self._lately.items())
        ]


def _deaths(emitter: str, counts: Mapping[str, int], reason: str, seconds: float, address: str) -> Problem:
    total = sum(counts.values())
    reasons = ", ".join(f"{code} {count:,}" for code, count in sorted(counts.items()))
    return Problem(
        name=f"dead letters of {emitter}" if emitter else "dead letters",
        state="warn",
        text=f"{total:,} {'events' if total > 1 else 'event'} lately: {reasons}{_latest(reason)}",
        seconds=seconds,
        advice=_LOOK,
        command=f"polku dlq list --to={quoted(address)} --emitter={quoted(emitter)}",
    )


def _latest(reason: str) -> str:
    """Return what is said of the latest of several dead letters; empty where its reason is not known."""
    return f"; the latest: {reason}" if reason else ""


def find_problems(tree: PipelineStatistics, restarted: Mapping[str, float]) -> list[Problem]:
    """Return what is wrong: first what holds up others, then what is unhealthy or loses events, the longest first."""
    wrong = {name: part for name, part in tree.parts.items() if part.holds_up or part.advice or not part.healthy}
    found = [
        Problem(
            name=name,
            state="warn" if part.healthy else "bad",
            text=_sentence(part),
            seconds=part.seconds,
            advice=part.advice,
            command=part.command,
            next_attempt=next_attempt(part.next_attempt_seconds),
        )
        for name, part in sorted(wrong.items(), key=lambda item: (not item[1].holds_up, -item[1].seconds))
    ]
    again = sorted((seconds, name) for name, seconds in restarted.items() if name not in wrong)
    return found + [
        Problem(name=name, state="warn", text=_RESTARTED, seconds=seconds, advice=_AGAIN, command="")
        for seconds, name in again
    ]


def _sentence(part: PartHealth) -> str:
    if not part.holds_up:
        return part.message
    rest = "" if part.healthy or part.message in part.holds_up else f": {part.message}"
    return f"holds up what comes in: {part.holds_up}{rest}"


def find_letters(tree: PipelineStatistics, address: str) -> list[Letters]:
    """Return the dead letters of all lanes and parts, by emitter and code; the commands ask an admin address."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for one in tree.dead_letters:
        total, forgotten = counts.get((one.emitter, one.code), (0, 0))
        counts[one.emitter, one.code] = total + one.total, forgotten + one.forgotten
    return [
        Letters(
            emitter=emitter,
            code=code,
            total=total,
            forgotten=forgotten,
            look=_command("list", address, emitter, code),
            replay=_command("replay", address, emitter, code) if tree.plan.dead_letters else "",
        )
        for (emitter, code), (total, forgotten) in sorted(counts.items())
    ]


def _command(verb: str, address: str, emitter: str, code: str) -> str:
    return f"polku dlq {verb} --to={quoted(address)} --emitter={quoted(emitter)} --code={quoted(code)}"
