"""How many lanes and replicas a plan has when it takes the place of one that runs, where that is decided by need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from polku.change.contents import StepName, names_by_stage
from polku.plan import Plan, StagePlan
from polku.scaling.rules import Range, Scaling


def continued(running: Plan, plan: Plan) -> Plan:
    """Return a plan with as many lanes and replicas as run now, as far as its ranges let it."""
    if plan.lane_range is not None and not running.per_node:
        plan = replace(plan, lanes=plan.lane_range.clamp(running.lanes))
    before = _by_steps(running)
    names = names_by_stage(plan)

    def with_number(stage: StagePlan) -> StagePlan:
        same = before.get(tuple(names[stage.name]))
        if stage.replica_range is None or same is None:
            return stage
        return replace(stage, replicas=stage.replica_range.clamp(same.replicas))

    return replace(plan, stages=tuple(map(with_number, plan.stages)))


def changed_ranges(old: Plan, new: Plan) -> Iterator[tuple[str, str, str]]:
    """Yield what another plan says about the numbers of lanes and replicas: of what, its name, and a note."""
    if old.lane_range != new.lane_range:
        yield "range", "of lanes", _note(old.lane_range, new.lane_range)
    before, after = ({stage.name: stage.replica_range for stage in plan.stages} for plan in (old, new))
    for name in after:
        if name in before and before[name] != after[name]:
            yield "range", f"of the replicas of {name}", _note(before[name], after[name])
    if old.scaling != new.scaling:
        yield "scaling", "", ", ".join(_rules(old.scaling, new.scaling))


def _note(before: Range | None, after: Range | None) -> str:
    return f"{after or 'none'} (was {before or 'none'})"


def _rules(old: Scaling, new: Scaling) -> Iterator[str]:
    for name in (each.name for each in fields(new)):
        if (value := getattr(new, name)) != (before := getattr(old, name)):
            yield f"{name}={value:g} (was {before:g})"


def _by_steps(plan: Plan) -> dict[tuple[StepName, ...], StagePlan]:
    names = names_by_stage(plan)
    return {tuple(names[stage.name]): stage for stage in plan.stages}
