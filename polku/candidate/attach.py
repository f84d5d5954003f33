"""Put new middleware next to the one in use, as a Hub describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from polku.candidate.configuration import Mode, WithCandidate
from polku.errors import PlanError
from polku.middleware.shares import Key
from polku.plan import MiddlewarePlan, StagePlan

_WHERE = "middleware"


class Tried(NamedTuple):
    """New middleware, its name, and what was said of it; `placed` where it was to have resources of its own."""

    name: str
    component: object
    shadow: float | None
    canary: float | None
    of: str | None
    key: str | Key | None
    placed: bool

    @property
    def mode(self) -> Mode:
        """What it does; raises `PlanError` where that is not said, or more than one thing."""
        if self.shadow is None and self.canary is None:
            given = "of=" if self.of is not None else "key="
            raise PlanError(f"{given} says nothing without shadow= or canary=, such as shadow=0.05", where=_WHERE)
        if self.shadow is not None and self.canary is not None:
            raise PlanError("choose shadow= or canary=, not both", where=_WHERE)
        return Mode.CANARY if self.shadow is None else Mode.SHADOW

    def beside(self, current: object) -> WithCandidate:
        """Return the middleware in use with this one next to it."""
        share = self.canary if self.shadow is None else self.shadow
        key = "id" if self.key is None else self.key
        return WithCandidate(current, self.component, self.name, self.mode, share or 0.0, key)


def attach(stages: Sequence[StagePlan], tried: Tried) -> list[StagePlan]:
    """Return the stages with new middleware next to that which it is tried against; raises `PlanError`."""
    mode = tried.mode
    if tried.placed:
        raise PlanError(
            f"{mode}= runs where the middleware in use does; leave num_cpus, num_gpus, resources, labels, isolate, "
            "replicas and partitions out",
            where=_WHERE,
        )
    at = _place(stages, tried)
    stage = stages[at]
    (current,) = stage.middleware
    if isinstance(current.component, WithCandidate):
        raise PlanError(f"{current.name} has {current.component.candidate_label} next to it already", where=_WHERE)
    if stage.partitions > 1 and (state_key := getattr(tried.component, "state_key", None)):
        raise PlanError(
            f"{tried.name} keeps its state by {state_key}, and {current.name} is divided into {stage.partitions} "
            f"partitions; try it next to one that is not",
            where=_WHERE,
        )
    both = MiddlewarePlan(current.name, tried.beside(current.component))
    return [*stages[:at], replace(stage, middleware=(both,)), *stages[at + 1 :]]


def _place(stages: Sequence[StagePlan], tried: Tried) -> int:
    """Return which stage has the middleware in use: the latest of its name, or the latest of all."""
    names = [stage.middleware[0].name for stage in stages]
    if not names:
        raise PlanError(f"{tried.mode}= needs the middleware in use before it: .middleware(old)", where=_WHERE)
    if tried.of is None:
        return len(names) - 1
    if tried.of not in names:
        raise PlanError(f"of={tried.of!r} is no middleware; known are {', '.join(names)}", where=_WHERE)
    return len(names) - 1 - names[::-1].index(tried.of)
