"""Decide whether there should be another number of lanes, or of a stage's replicas: a function of what was seen.

Up when the oldest event, or the utilization, has been above its bound for some seconds: by as many as the utilization
asks for, or, where only the age tells, by one, or doubled where the age is far above its bound. Down by one, when both
have been low for much longer. The bound for down is on what those that stay would have to do, so that they do not go up
again at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from polku.scaling.rules import Range, Scaling

_FAR = 4.0  # times the bound, from which an age doubles them
_SPAN = 0.5  # of the bound, under which an age is low
_LONGEST_PAUSE = 600.0


class Look(NamedTuple):
    """What was seen at a time (seconds of any clock that only goes forth): how many, the oldest event, utilization.

    With `changing` their number, or something else, is being changed; `unhealthy` says what does not work, empty where
    all does. `lost` are those of the number that were on nodes which are gone.
    """

    at: float
    number: int
    oldest_seconds: float
    utilization: float
    changing: bool = False
    unhealthy: str = ""
    lost: int = 0


class History(NamedTuple):
    """What one decision leaves for the next: since when it has been high, or low, and until when nothing changes."""

    high_since: float | None = None
    low_since: float | None = None
    rests_until: float = -math.inf
    failures: int = 0

    def changed(self, rules: Scaling, at: float) -> History:
        """Return what follows a change that was done."""
        return History(rests_until=at + rules.pause_seconds)

    def failed(self, rules: Scaling, at: float) -> History:
        """Return what follows a change that failed: each one in a row has the next one wait twice as long."""
        pause = min(rules.pause_seconds * 2.0 ** min(self.failures + 1, 32), max(_LONGEST_PAUSE, rules.pause_seconds))
        return History(rests_until=at + pause, failures=self.failures + 1)


class Decision(NamedTuple):
    """How many there should be, and why."""

    wanted: int
    reason: str


def decide(rules: Scaling, bounds: Range, history: History, look: Look) -> tuple[History, Decision | None]:
    """Return the history after a look, and what to do now, if there is something."""
    if look.changing:
        return History(
            rests_until=max(history.rests_until, look.at + rules.pause_seconds), failures=history.failures
        ), None
    history = _noted(rules, bounds, history, look)
    rests = look.at < history.rests_until
    if look.lost and not (rests and history.failures):  # what there was is needed, whatever was changed just now
        return history, Decision(bounds.clamp(look.number), f"{look.lost} gone with a node")
    if look.number != bounds.clamp(look.number) and not rests and (look.number < bounds.min or not look.unhealthy):
        return history, Decision(bounds.clamp(look.number), f"there may be {bounds}")
    if rests:
        return history, None
    if history.high_since is not None and look.at - history.high_since >= rules.up_seconds:
        return history, _up(rules, bounds, look)
    if history.low_since is not None and look.at - history.low_since >= rules.down_seconds:
        seconds = look.at - history.low_since
        return history, Decision(look.number - 1, f"utilization {look.utilization:.0%}, for {seconds:.0f} s")
    return history, None


def _noted(rules: Scaling, bounds: Range, history: History, look: Look) -> History:
    """Return the history with since when what is seen is high, or low."""
    is_high = look.number < bounds.max and (
        look.oldest_seconds >= rules.oldest_seconds or look.utilization >= rules.busy
    )
    is_low = (
        look.number > bounds.min
        and not look.unhealthy
        and look.oldest_seconds < rules.oldest_seconds * _SPAN
        and look.utilization * look.number <= rules.idle * (look.number - 1)
    )
    return history._replace(
        high_since=_since(history.high_since, look.at) if is_high else None,
        low_since=_since(history.low_since, look.at) if is_low else None,
    )


def _since(before: float | None, at: float) -> float:
    return at if before is None else before


def _up(rules: Scaling, bounds: Range, look: Look) -> Decision:
    """Return how many more, at most twice as many: what is busy leaves out which of them it would be otherwise."""
    wanted, reasons = look.number + 1, []
    if look.oldest_seconds >= rules.oldest_seconds:
        reasons.append(f"oldest event {look.oldest_seconds:.0f} s")
        if look.oldest_seconds >= _FAR * rules.oldest_seconds:
            wanted = 2 * look.number
    if look.utilization >= rules.busy:
        reasons.append(f"utilization {look.utilization:.0%}")
        wanted = max(wanted, math.ceil(look.number * look.utilization / ((rules.busy + rules.idle) / 2)))
    return Decision(min(wanted, 2 * look.number, bounds.max), ", ".join(reasons))
