"""The plan of a hub as a test runs it: recorders in place of emitters, replacements, a probe at each step."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polku.batch.lineage import origins
from polku.buffer.strategy import BufferStrategy, Kind
from polku.clock import Clock
from polku.contracts import Outcome as StepOutcome
from polku.emit.adapt import check_emitter
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.ingest.adapt import check_ingestor
from polku.middleware.adapt import as_step, check_middleware
from polku.middleware.batching import Batched
from polku.plan import AckLevel, MiddlewarePlan, OutletPlan, Plan, StagePlan
from polku.testing.trial.destinations import in_place_of
from polku.testing.trial.outcome import Dropped, Records


def plan_for_test(
    plan: Plan,
    replacements: Mapping[str, object],
    only: Collection[str] | None,
    records: Records,
) -> Plan:
    """Return the plan with what a test replaces; `records` are filled while it runs.

    Raises `PlanError` for a name that no part has, or several have.
    """
    _check_names(plan, replacements)
    durable = plan.buffer.kind is Kind.DURABLE
    buffer = plan.buffer
    if durable:
        buffer = BufferStrategy.ring(buffer.capacity, max_bytes=buffer.max_bytes, overflow=buffer.overflow)
    return replace(
        plan,
        ingestors=tuple((source, _ingestor(source, one, replacements)) for source, one in plan.ingestors),
        stages=_stages(plan.stages, replacements, only, records.dropped),
        outlets=tuple(_outlet(outlet, replacements, records) for outlet in plan.outlets),
        buffer=buffer,
        ack=AckLevel.ACCEPTED if plan.ack is AckLevel.DURABLE else plan.ack,
        sources=(),
        plugins=None,
        tls=None,
        tokens=None,
        dead_letters=None,
    )


def without_files(component: object) -> object:
    """Return middleware that keeps in memory what it would keep in a file."""
    in_memory = getattr(component, "in_memory", None)
    return in_memory() if callable(in_memory) else component


def short_name(name: str) -> str:
    """Return `classify` of a middleware that is called `Transform(classify)`."""
    _, bracket, inner = name.partition("(")
    return inner.removesuffix(")") if bracket else name


def _ingestor(source: str, ingestor: object, replacements: Mapping[str, object]) -> object:
    if source not in replacements:
        return ingestor
    check_ingestor(replacements[source])
    return replacements[source]


def _outlet(outlet: OutletPlan, replacements: Mapping[str, object], records: Records) -> OutletPlan:
    inner = replacements.get(outlet.name)
    if inner is not None:
        check_emitter(inner)
    records.take(outlet.name, [])
    return replace(outlet, emitter=in_place_of(outlet.name, outlet.emitter, inner, records))


def _stages(
    stages: Sequence[StagePlan],
    replacements: Mapping[str, object],
    only: Collection[str] | None,
    dropped: list[Dropped],
) -> tuple[StagePlan, ...]:
    names = [middleware.name for stage in stages for middleware in stage.middleware]
    if only is not None:
        chosen = {_find(name, names, "only") for name in only}
    found = {_find(name, names, "replace"): part for name, part in replacements.items() if _among(name, names)}

    def probed(middleware: MiddlewarePlan) -> MiddlewarePlan:
        component = found.get(middleware.name, without_files(middleware.component))
        if isinstance(middleware.component, Batched) and not isinstance(component, Batched):
            component = Batched(component, middleware.component.batching)
        check_middleware(component)
        return replace(middleware, component=_Probe(component, middleware.name, dropped))

    kept = []
    for stage in stages:
        own = tuple(probed(one) for one in stage.middleware if only is None or one.name in chosen)
        if own:
            kept.append(replace(stage, middleware=own))
    return tuple(kept)


def _check_names(plan: Plan, replacements: Mapping[str, object]) -> None:
    names = [middleware.name for stage in plan.stages for middleware in stage.middleware]
    emitters = [outlet.name for outlet in plan.outlets]
    sources = [source for source, _ in plan.ingestors]
    for name in replacements:
        kinds = [
            kind
            for kind, is_it in (
                ("an emitter", name in emitters),
                ("middleware", _among(name, names)),
                ("the source of an ingestor", name in sources),
            )
            if is_it
        ]
        if len(kinds) > 1:
            raise PlanError(f"{name!r} is {' and '.join(kinds)}; give one of them another name", where="replace")
        if not kinds:
            known = f"emitters {', '.join(emitters)}; middleware {', '.join(names) or '(none)'}"
            raise PlanError(f"{name!r} is no part of the pipeline; known are {known}", where="replace")


def _among(name: str, names: Sequence[str]) -> bool:
    return name in names or name in map(short_name, names)


def _find(name: str, names: Sequence[str], where: str) -> str:
    """Return the whole name of the middleware that is called so; raises `PlanError` where it is none, or several."""
    found = [own for own in names if own == name] or [own for own in names if short_name(own) == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise PlanError(f"{name!r} is {len(found)} middleware; name them: .middleware(..., name='…')", where=where)
    raise PlanError(f"{name!r} is no middleware; known are {', '.join(names) or '(none)'}", where=where)


@dataclass(frozen=True, slots=True)
class _Probe:
    """A middleware of which it is written down what it drops."""

    component: Any
    name: str
    dropped: list[Dropped]

    def build(self, clock: Clock) -> Any:
        step = as_step(self.component, clock)
        drops_nothing = hasattr(step, "hold") or hasattr(step, "submit")
        return step if drops_nothing else _ProbedStep(step, self.name, self.dropped)

    @property
    def holds(self) -> bool:
        return bool(getattr(self.component, "holds", False))

    @property
    def targets(self) -> Sequence[str]:
        targets: Sequence[str] = getattr(self.component, "targets", ())
        return targets


class _ProbedStep:
    """A running step, and which of the events that it is given do not come back."""

    def __init__(self, step: Any, name: str, dropped: list[Dropped]) -> None:
        self._step = step
        self.name = name
        self.drop_reason = step.drop_reason
        self._dropped = dropped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def process(self, events: list[Event], batch: int) -> StepOutcome | Awaitable[StepOutcome]:
        given = list(events)
        result = self._step.process(events, batch)
        if inspect.isawaitable(result):
            return self._await(given, result)
        outcome: StepOutcome = result
        self._note(given, outcome)
        return outcome

    async def _await(self, given: Sequence[Event], result: Awaitable[StepOutcome]) -> StepOutcome:
        outcome = await result
        self._note(given, outcome)
        return outcome

    def _note(self, given: Sequence[Event], outcome: StepOutcome) -> None:
        if len(outcome.events) == len(given) and not outcome.refused and outcome.origins is None:
            return
        made = origins(given, outcome, range(len(outcome.events)))
        gone = set(range(len(given))) - {position for own in made for position in own}
        gone -= {dead.refusal.position for dead in outcome.refused}
        self._dropped += [Dropped(given[place], self.name, self.drop_reason) for place in sorted(gone)]
