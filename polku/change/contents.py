"""The parts of a plan by name, each with a digest of what it is made of: taken before the parts begin to work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields

from msgspec import Struct

from polku.change.content import Memory, content_digest
from polku.plan import OutletPlan, Plan, StagePlan


class StepName(Struct, frozen=True):
    """Name one middleware of a plan: `number` counts those of the same name, from 1."""

    name: str
    number: int

    def __str__(self) -> str:
        return self.name if self.number == 1 else f"{self.name} ({self.number})"


class Contents(Struct, frozen=True):
    """The digests of a plan's components, by name; `memory` is what was met on the way."""

    plan: Plan
    ingestors: Mapping[str, str]
    default_ingestor: str | None
    sources: Mapping[str, str]
    steps: Mapping[StepName, str]
    emitters: Mapping[str, str]
    memory: Memory

    def components(self) -> Iterator[tuple[StepName, object]]:
        """Yield each middleware with its name, in order."""
        return _steps(self.plan)


def contents_of(plan: Plan, before: Contents | None = None) -> Contents:
    """Describe a plan; of one that runs this must have been done before it started: components may change then.

    What stood in the plan `before` as the same object is what it was then.
    """
    default = plan.default_ingestor
    memory: Memory = {}

    def digest(component: object) -> str:
        return content_digest(component, None if before is None else before.memory, memory)

    return Contents(
        plan,
        {source: digest(ingestor) for source, ingestor in plan.ingestors},
        None if default is None else digest(default),
        {source.name: digest(source.source) for source in plan.sources},
        {name: digest(component) for name, component in _steps(plan)},
        {outlet.name: digest(outlet.emitter) for outlet in plan.outlets},
        memory,
    )


def step_names(stage: StagePlan, seen: Counter[str]) -> list[StepName]:
    """Return the names of a stage's middleware; `seen` counts the names of the stages before it."""
    names = []
    for middleware in stage.middleware:
        seen[middleware.name] += 1
        names.append(StepName(middleware.name, seen[middleware.name]))
    return names


def names_by_stage(plan: Plan) -> dict[str, list[StepName]]:
    """Return the names of every stage's middleware, in order."""
    seen: Counter[str] = Counter()
    return {stage.name: step_names(stage, seen) for stage in plan.stages}


def options_of(outlet: OutletPlan) -> dict[str, object]:
    """Return what is chosen for an outlet beside its emitter."""
    return {each.name: getattr(outlet, each.name) for each in fields(outlet) if each.name in _OPTIONS}


_OPTIONS = ("overflow", "required", "always")


def _steps(plan: Plan) -> Iterator[tuple[StepName, object]]:
    names = names_by_stage(plan)
    for stage in plan.stages:
        for name, middleware in zip(names[stage.name], stage.middleware, strict=True):
            yield name, middleware.component
