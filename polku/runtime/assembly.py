"""Build the running objects of a plan: the same ones for every runtime, which only connects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polku.buffer.buffer import Buffer
from polku.buffer.outlets import OutletRules
from polku.clock import Clock, SystemClock
from polku.contracts import Collector, Holder, Ingestor, Step
from polku.dead_letters import DeadLetters
from polku.emit.delivery import Delivery
from polku.gateway.intake import Intake
from polku.link.link import Link, Outgoing, Peer, Window
from polku.middleware.partition_key import partition_keys
from polku.plan import AckLevel, MiddlewarePlan, OutletPlan, Plan, StagePlan
from polku.security.configuration import STAMP
from polku.stage.key_space import KeySpace
from polku.stage.overlapping import OverlappingStage, overlaps
from polku.stage.partitions import Partitions
from polku.stage.replicas import Replicas
from polku.stage.stage import Stage

if TYPE_CHECKING:
    from polku.external.registry import Assign
    from polku.external.registry_service import RegistryService
    from polku.tracing.tracer import Tracer, Tracing


def build_steps(stage: StagePlan, clock: Clock | None = None) -> list[Step | Holder]:
    """Build the middleware of one stage."""
    return [build_step(middleware, clock) for middleware in stage.middleware]


def build_step(middleware: MiddlewarePlan, clock: Clock | None = None) -> Step | Holder:
    """Build one middleware, under the name that it has in the plan."""
    from polku.middleware.adapt import as_step

    step = as_step(middleware.component, clock or SystemClock())
    step.name = middleware.name
    return step


def build_intake(plan: Plan, link: Link, clock: Clock | None = None, *, seals: bool) -> Intake:
    """Build what takes messages in; its ingestors are built, not yet started.

    `seals` where what comes next needs the events as bytes: another process, or the buffer.
    """
    from polku.ingest.adapt import as_ingestor

    clock = clock or SystemClock()
    built: dict[int, Ingestor] = {}
    ingestors: dict[str, Ingestor] = {}
    for source, config in plan.ingestors:
        ingestors[source] = built.setdefault(id(config), as_ingestor(config, clock))
    default = plan.default_ingestor
    default_ingestor = None if default is None else as_ingestor(default, clock)
    return Intake(
        ingestors,
        default_ingestor,
        link,
        plan.limits,
        reads_routes=not plan.stages,
        seals=seals,
        tracer=build_tracer(plan),
    )


def build_sources(plan: Plan, intake: Intake, dead_letters: DeadLetters, clock: Clock | None = None) -> None:
    """Let the intake pull from the plan's sources once it is started, and keep what it refuses for good."""
    intake.keep_refused(dead_letters.bury_events)
    if plan.sources:
        from polku.gateway.pulling import Sources, as_source

        running = {source.name: as_source(source.source, clock or SystemClock()) for source in plan.sources}
        intake.pull(Sources(running, intake, dead_letters.bury_events))


def build_registry(plan: Plan, intake: Intake, assign: Assign) -> RegistryService | None:
    """Build what plugins register with, where the plan allows it; `assign` reaches the pipeline's plugin slots."""
    if plan.plugins is None:
        return None
    from polku.external.plugin_slot import slot_name
    from polku.external.registry import Registry
    from polku.external.registry_service import RegistryService

    taken = {source: type(ingestor).__name__ for source, ingestor in plan.ingestors}
    slots = {name: outlet.name for outlet in plan.outlets if (name := slot_name(outlet.emitter)) is not None}
    most = plan.limits.message_bytes
    registry = Registry(plan.plugins, intake.ingestors, taken, slots, assign, answer_bytes=most)
    intake.watch(registry.tasks)
    return RegistryService(registry)


def build_stage(
    plan: Plan,
    stage: StagePlan,
    link: Outgoing,
    dead_letters: DeadLetters,
    clock: Clock | None = None,
    *,
    steps: Sequence[Step | Holder] | None = None,
) -> Stage:
    """Build one stage of the plan, of `steps` if they are there already."""
    clock = clock or SystemClock()
    steps = build_steps(stage, clock) if steps is None else steps
    last = stage.name == plan.stages[-1].name
    tracer = build_tracer(plan)
    kind: type[Stage] = OverlappingStage if any(map(overlaps, steps)) else Stage
    return kind(
        steps,
        link,
        dead_letters,
        clock,
        holds_behind=_holds_behind(plan, stage),
        reads_routes=last,
        is_partition=stage.partitions > 1,
        name=stage.name,
        tracer=tracer,
    )


def build_replicas(
    plan: Plan, stage: StagePlan, replicas: Sequence[Peer], link: Link, dead_letters: DeadLetters
) -> Replicas:
    """Build what divides the work of one stage among its replicas."""
    links = [replica_link(plan, stage, number, peer, dead_letters) for number, peer in enumerate(replicas, 1)]
    return Replicas(links, link, holds_behind=_holds_behind(plan, stage), overlapping=_holds(stage))


def build_partitions(
    plan: Plan, stage: StagePlan, parts: Sequence[Peer], dead_letters: DeadLetters, window: Window
) -> Partitions:
    """Build what hands each event to the partition of a stage that its key belongs to."""
    (middleware,) = stage.middleware
    keys = partition_keys(middleware.component)
    assert keys is not None
    names = [f"{stage.name}/partition-{number}" for number in range(1, len(parts) + 1)]
    bury = partial(dead_letters.bury, "")
    links = [
        Link(f"{plan.name}/{name}", peer, window=window, bury=bury) for name, peer in zip(names, parts, strict=True)
    ]
    return Partitions(dict(zip(names, links, strict=True)), keys)


def in_partition(stage: StagePlan, part: str) -> StagePlan:
    """Return a stage as one of its partitions builds it: what middleware keeps in files is of its own keys there."""
    if stage.partitions == 1:
        return stage
    number, partition_of = int(part.rpartition("-")[2]) - 1, KeySpace(stage.partitions).partition_of

    def placed(component: Any) -> Any:
        place = getattr(component, "in_partition", None)
        return place(number, stage.partitions, partition_of) if callable(place) else component

    def with_place(middleware: MiddlewarePlan) -> MiddlewarePlan:
        with_parts = getattr(middleware.component, "with_middleware_parts", None)
        found = placed(middleware.component) if with_parts is None else with_parts(placed)
        return replace(middleware, component=found)

    return replace(stage, middleware=tuple(map(with_place, stage.middleware)))


def partition_plan(plan: Plan, stage: StagePlan, part: str) -> Plan:
    """Return the plan with names of its own for the links of a partition: others have links to the same receivers."""
    return replace(plan, name=f"{plan.name}/{part}") if stage.partitions > 1 else plan


def replica_link(plan: Plan, stage: StagePlan, number: int, peer: Peer, dead_letters: DeadLetters) -> Link:
    """Build the link to one replica of a stage."""
    name = f"{plan.name}/{stage.name}/replica-{number}"
    return Link(name, peer, window=Window(join_events=0), bury=partial(dead_letters.bury, ""))


def build_dead_letters(plan: Plan, clock: Clock | None = None) -> DeadLetters:
    """Build what keeps dead letters: on disk where the plan says so; raises `JournalPathError` where that cannot be."""
    if plan.dead_letters is None:
        return DeadLetters(clock=clock, stamp=plan.stamp or STAMP)
    from pathlib import Path

    from polku.buffer.place import check_letters_place, check_place
    from polku.dead_letters.disk import StoredDeadLetters

    where = plan.dead_letters
    if plan.buffer.path:  # which is what a person has chosen: it is named before what stands next to it
        check_place(Path(plan.buffer.path))
    check_letters_place(Path(where.path))
    return StoredDeadLetters(where.path, where.max_events, where.max_bytes, clock=clock, stamp=plan.stamp or STAMP)


def replay_to_outlets(plan: Plan, dead_letters: DeadLetters, buffer: Buffer) -> None:
    """Let letters of emitters go back through their outlets when somebody asks for it."""
    if plan.dead_letters is not None:
        from polku.dead_letters.disk import StoredDeadLetters
        from polku.dead_letters.replay import to_outlet

        assert isinstance(dead_letters, StoredDeadLetters)
        dead_letters.replay(to_outlet(buffer.replay), [outlet.name for outlet in plan.outlets])


def replay_to_intake(plan: Plan, dead_letters: DeadLetters, intake: Intake) -> None:
    """Let letters that got to no emitter go through the whole pipeline again when somebody asks for it."""
    if plan.dead_letters is not None:
        from polku.dead_letters.disk import StoredDeadLetters
        from polku.dead_letters.replay import to_intake

        assert isinstance(dead_letters, StoredDeadLetters)
        dead_letters.replay(to_intake(intake.replay), [""])


def build_buffer(plan: Plan, links: Mapping[str, Link], dead_letters: DeadLetters) -> Buffer:
    """Build the buffer with one outlet for each link, by the emitter's name."""
    rules = rules_of(plan)
    delivered = plan.ack is AckLevel.DELIVERED
    former = {outlet.name: outlet.formerly for outlet in plan.outlets if outlet.formerly is not None}
    return Buffer(
        plan.buffer,
        links,
        dead_letters,
        overflow=rules.overflow,
        best_effort=rules.best_effort,
        await_delivery=delivered,
        formerly=former,
        always=rules.always,
    )


def build_tracer(plan: Plan) -> Tracer | None:
    """Build what makes the spans of a lane; None where the plan is not traced."""
    return tracer_of(tracing_of(plan))


def tracing_of(plan: Plan) -> Tracing | None:
    """Return how a lane is traced."""
    if plan.traces is None:
        return None
    from polku.tracing.tracer import Tracing

    pipeline, _, lane = plan.name.partition("/lane-")
    return Tracing(plan.traces, pipeline, f"lane-{lane}" if lane else "")


def tracer_of(tracing: Tracing | None) -> Tracer | None:
    """Build what makes the spans of a lane."""
    if tracing is None:
        return None
    from polku.tracing.tracer import Tracer

    return Tracer(tracing)


def rules_of(plan: Plan) -> OutletRules:
    """Return what is chosen for the outlets of a plan."""
    overflow = {outlet.name: outlet.overflow for outlet in plan.outlets if outlet.overflow is not None}
    optional = frozenset(outlet.name for outlet in plan.outlets if not outlet.required)
    return OutletRules(overflow, optional, frozenset(outlet.name for outlet in plan.outlets if outlet.always))


def build_delivery(outlet: OutletPlan, clock: Clock | None = None, *, tracing: Tracing | None = None) -> Delivery:
    """Build what calls one emitter."""
    from polku.emit.adapt import as_emitter

    emitter = as_emitter(outlet.emitter, clock or SystemClock())
    collector = getattr(emitter, "inner", emitter)
    if isinstance(collector, Collector):
        from polku.emit.collect import CollectingDelivery

        return CollectingDelivery(outlet.name, emitter, collector, tracer_of(tracing))
    return Delivery(outlet.name, emitter, tracer_of(tracing))


def accepts_first(plan: Plan, stage: StagePlan) -> bool:
    """Return whether this stage answers `Accepted` first: it or something behind it holds events.

    An Aggregator does, and a buffer that awaits delivery; and partitions, so that one that is away holds up no other.
    """
    return _holds(stage) or _holds_behind(plan, stage)


def _holds_behind(plan: Plan, stage: StagePlan) -> bool:
    if plan.ack is AckLevel.DELIVERED:
        return True
    names = [other.name for other in plan.stages]
    return any(_holds(other) or other.partitions > 1 for other in plan.stages[names.index(stage.name) + 1 :])


def _holds(stage: StagePlan) -> bool:
    return any(getattr(middleware.component, "holds", False) for middleware in stage.middleware)
