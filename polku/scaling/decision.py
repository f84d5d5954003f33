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

    With `changing` their number, or something else, is being changed; `unwell` says what does not work, empty where
    all does.
    """

    at: float
    number: int
    oldest_seconds: float
    utilization: float
    changing: bool = False
    unwell: str = ""


class State(NamedTuple):
    """What one decision leaves for the next: since when it has been high, or low, and until when nothing changes."""

    high_since: float | None = None
    low_since: float | None = None
    rests_until: float = -math.inf
    failures: int = 0

    def changed(self, rules: Scaling, at: float) -> State:
        """Return what follows a change that was done."""
        return State(rests_until=at + rules.pause_seconds)

    def failed(self, rules: Scaling, at: float) -> State:
        """Return what follows a change that failed: each one in a row has the next one wait twice as long."""
        pause = min(rules.pause_seconds * 2.0 ** min(self.failures + 1, 32), max(_LONGEST_PAUSE, rules.pause_seconds))
        return State(rests_until=at + pause, failures=self.failures + 1)


class Step(NamedTuple):
    """How many there should be, and why."""

    wanted: int
    reason: str


def decide(rules: Scaling, bounds: Range, state: State, look: Look) -> tuple[State, Step | None]:
    """Return the state after a look, and what to do now, if there is something."""
    if look.changing:
        return State(rests_until=max(state.rests_until, look.at + rules.pause_seconds), failures=state.failures), None
    state = _noted(rules, bounds, state, look)
    rests = look.at < state.rests_until
    if look.number != bounds.clamp(look.number) and not rests and (look.number < bounds.min or not look.unwell):
        return state, Step(bounds.clamp(look.number), f"there may be {bounds}")
    if rests:
        return state, None
    if state.high_since is not None and look.at - state.high_since >= rules.up_seconds:
        return state, _up(rules, bounds, look)
    if state.low_since is not None and look.at - state.low_since >= rules.down_seconds:
        seconds = look.at - state.low_since
        return state, Step(look.number - 1, f"utilization {look.utilization:.0%}, for {seconds:.0f} s")
    return state, None


def _noted(rules: Scaling, bounds: Range, state: State, look: Look) -> State:
    """Return the state with since when it is high, or low."""
    is_high = look.number < bounds.max and (
        look.oldest_seconds >= rules.oldest_seconds or look.utilization >= rules.busy
    )
    is_low = (
        look.number > bounds.min
        and not look.unwell
        and look.oldest_seconds < rules.oldest_seconds * _SPAN
        and look.utilization * look.number <= rules.idle * (look.number - 1)
    )
    return state._replace(
        high_since=_since(state.high_since, look.at) if is_high else None,
        low_since=_since(state.low_since, look.at) if is_low else None,
    )


def _since(before: float | None, at: float) -> float:
    return at if before is None else before


def _up(rules: Scaling, bounds: Range, look: Look) -> Step:
    """Return how many more, at most twice as many: what is busy leaves out which of them it would be otherwise."""
    wanted, reasons = look.number + 1, []
    if look.oldest_seconds >= rules.oldest_seconds:
        reasons.append(f"oldest event {look.oldest_seconds:.0f} s")
        if look.oldest_seconds >= _FAR * rules.oldest_seconds:
            wanted = 2 * look.number
    if look.utilization >= rules.busy:
        reasons.append(f"utilization {look.utilization:.0%}")
        wanted = max(wanted, math.ceil(look.number * look.utilization / ((rules.busy + rules.idle) / 2)))
    return Step(min(wanted, 2 * look.number, bounds.max), ", ".join(reasons))
