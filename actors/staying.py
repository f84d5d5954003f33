"""Which stages keep their actors when a pipeline takes another plan, and what becomes of the state in the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from polku.change.contents import Contents, StepName, names_by_stage
from polku.change.difference import Difference, PartChange, PartVerdict, divided_otherwise, keeps_state
from polku.plan import Plan, StagePlan
from polku.runtime.assembly import accepts_first


class Seat(NamedTuple):
    """Where a middleware is: in which stage, at which position."""

    stage: str
    position: int


class Heir(NamedTuple):
    """A middleware whose state moves: from where, and to where; `divided` between other partitions than before."""

    old: Seat
    new: Seat
    divided: bool = False


def staying(old: Contents, new: Contents) -> frozenset[str]:
    """Return the names of the stages that keep their actors: those that are made of the same, and work alike."""
    before, after = (dict(_stages(contents)) for contents in (old, new))
    return frozenset(name for name, made_of in after.items() if before.get(name) == made_of)


def heirs(old: Contents, new: Contents, stays: frozenset[str]) -> list[Heir]:
    """Return the middleware of stages with new actors whose state moves there."""
    before, after = (dict(contents.components()) for contents in (old, new))
    from_, to = _seats(old.plan), _seats(new.plan)
    divided = divided_otherwise(old.plan, new.plan)
    return [
        Heir(from_[name], seat, name in divided)
        for name, seat in to.items()
        if seat.stage not in stays
        and name in before
        and keeps_state(before[name], after[name], divided=name in divided)
    ]


def noted(found: Difference, old: Contents, new: Contents, stays: frozenset[str]) -> Difference:
    """Return the difference with what becomes of unchanged middleware whose stage gets a new actor."""
    seats, components = _seats(new.plan), dict(new.components())
    names = {str(name): name for name in seats}
    divided = divided_otherwise(old.plan, new.plan)

    def note(part: PartChange) -> PartChange:
        if part.kind != "middleware" or part.verdict is not PartVerdict.UNCHANGED:
            return part
        name = names[part.name]
        component = components[name]
        if seats[name].stage in stays or not getattr(component, "state_key", None):
            return part
        if keeps_state(component, component, divided=name in divided):
            return part
        return replace(part, verdict=PartVerdict.CHANGED, note="its stage gets a new actor: starts empty")

    return replace(found, parts=tuple(map(note, found.parts)))


def _stages(contents: Contents) -> Iterator[tuple[str, object]]:
    plan, names = contents.plan, names_by_stage(contents.plan)
    for stage in plan.stages:
        own = names[stage.name]
        yield stage.name, (tuple(own), tuple(contents.steps[name] for name in own), *_place(plan, stage))


def _place(plan: Plan, stage: StagePlan) -> tuple[object, ...]:
    is_last = stage.name == plan.stages[-1].name
    needs = stage.resources
    custom = *sorted(needs.custom.items()), *sorted(needs.labels.items())
    actors = stage.replicas, stage.replicated, stage.partitions, stage.shared
    return needs.num_cpus, needs.num_gpus, custom, *actors, is_last, accepts_first(plan, stage)


def _seats(plan: Plan) -> Mapping[StepName, Seat]:
    return {
        name: Seat(stage, position)
        for stage, names in names_by_stage(plan).items()
        for position, name in enumerate(names)
    }
