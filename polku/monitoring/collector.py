"""Make the statistics of a pipeline of what its parts have counted, wherever they run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.structs import asdict

from polku.buffer.statistics import BufferStatistics as BufferCounts
from polku.buffer.statistics import OutletStatistics as OutletCounts
from polku.buffer.strategy import Kind
from polku.dead_letters import DeadLetterStatistics
from polku.emit.delivery import CollectionStatistics as CollectionCounts
from polku.emit.delivery import DeliveryStatistics
from polku.emit.resilience import ResilienceStatistics
from polku.gateway.intake_statistics import IntakeStatistics
from polku.health import Health
from polku.link.link import LinkStatistics as LinkCounts
from polku.monitoring.picture import describe, type_name
from polku.monitoring.remedies import Remedies
from polku.monitoring.stage_statistics import (
    CallStatistics,
    CandidateStatistics,
    DifferenceStatistics,
    ErrorStatistics,
    LinkStatistics,
    StageStatistics,
)
from polku.monitoring.statistics import (
    BufferStatistics,
    CollectionStatistics,
    DeadLetterCount,
    EmitterStatistics,
    IngestStatistics,
    JournalStatistics,
    LaneStatistics,
    OutletStatistics,
    PartHealth,
    PipelineStatistics,
    PlanStatistics,
    PluginStatistics,
    ProcessStatistics,
    ReloadStatistics,
    ScaleStatistics,
    SourceStatistics,
    WayStatistics,
)
from polku.monitoring.tree import Tree
from polku.plan import Plan
from polku.recent_errors import SeenError
from polku.stage.statistics import CandidateCounts
from polku.stage.statistics import StageStatistics as StageCounts
from polku.text import line
from polku.version import __version__

if TYPE_CHECKING:
    from polku.contracts import CallShape, SourceState
    from polku.external.client import PluginState
    from polku.runtime.lane import LaneStatistics as LaneCounts
    from polku.runtime.reloads import Reloads

T = TypeVar("T", bound=Tree)
_TEXT = 2_000


class Facts(Struct, frozen=True):
    """What is to be known of a plan: names, and the types of its components by name."""

    pipeline: str
    runtime: str
    durable: bool
    started: float
    emitters: Mapping[str, str]
    optional: frozenset[str]
    stages: Mapping[str, str]
    sources: Mapping[str, str]
    plan: PlanStatistics


def facts_of(plan: Plan, runtime: str, started: float) -> Facts:
    """Return what is to be known of a plan whose pipeline started at a Unix time in seconds."""
    return Facts(
        pipeline=plan.name,
        runtime=runtime,
        durable=plan.buffer.kind is Kind.DURABLE,
        started=started,
        emitters={outlet.name: type_name(outlet.emitter) for outlet in plan.outlets},
        optional=frozenset(outlet.name for outlet in plan.outlets if not outlet.required),
        stages={stage.name: " ".join(type_name(one.component) for one in stage.middleware) for stage in plan.stages},
        sources={source.name: type_name(source.source) for source in plan.sources},
        plan=describe(plan),
    )


class _Lane:
    """The parts of one lane that are known by now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node = ""
        self.ingest: IngestStatistics | None = None
        self.stages: dict[str, StageStatistics] = {}
        self.buffer: BufferStatistics | None = None
        self.emitters: dict[str, EmitterStatistics] = {}

    def tree(self) -> LaneStatistics:
        return LaneStatistics(
            name=self.name,
            node=self.node,
            ingest=self.ingest,
            stages=self.stages,
            buffer=self.buffer,
            emitters=self.emitters,
        )


class Collector:
    """Take the counts of each part, and return the tree of all."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._lanes: dict[str, _Lane] = {}
        self._shared: dict[str, StageStatistics] = {}
        self._letters: list[DeadLetterCount] = []
        self._processes: dict[str, ProcessStatistics] = {}

    def add_process(self, name: str, process: ProcessStatistics) -> None:
        """Add a process by the name of its part."""
        self._processes[name] = process

    def place(self, lane: str, node: str) -> None:
        """Say which node a lane is on, by its address."""
        self._lanes.setdefault(lane, _Lane(lane)).node = node

    def add_lane(self, lane: str, counts: LaneCounts) -> None:
        """Add all parts of a lane that runs in one event loop."""
        self.add(lane, "ingest", counts.intake)
        for name, stage in counts.stages.items():
            self.add(lane, name, stage)
        self.add(lane, "buffer", counts.buffer)
        for name, delivery in counts.emitters.items():
            self.add(lane, f"emitter:{name}", delivery)

    def add(self, lane: str, part: str, counts: object) -> None:
        """Add what one part of a lane has counted, or nothing where it has not answered yet (None)."""
        found = self._lanes.setdefault(lane, _Lane(lane))
        match counts:
            case IntakeStatistics():
                found.ingest = self._ingest(counts)
                self._add_letters(lane, part, counts.letters)
            case StageCounts():
                found.stages[part] = self._stage(part, counts)
                self._add_letters(lane, part, counts.letters)
            case BufferCounts():
                found.buffer = self._buffer(counts)
                self._add_letters(lane, part, counts.dead_letters)
            case DeliveryStatistics():
                name = part.removeprefix("emitter:")
                found.emitters[name] = _emitter(self._facts.emitters.get(name, ""), counts)
            case _:
                pass

    def add_shared(self, part: str, counts: object) -> None:
        """Add what a stage has counted that all lanes feed."""
        if isinstance(counts, StageCounts):
            self._shared[part] = self._stage(part, counts)
            self._add_letters("", part, counts.letters)

    def tree(self, health: Health, reloads: Reloads) -> PipelineStatistics:
        """Return the tree, with a judgement that was made at the same time."""
        now = time.time_ns()
        return PipelineStatistics(
            pipeline=self._facts.pipeline,
            runtime=self._facts.runtime,
            version=__version__,
            time_ns=now,
            uptime_seconds=max(now / 1e9 - self._facts.started, 0.0),
            healthy=health.healthy,
            ready=health.ready,
            not_ready=health.not_ready,
            plan=self._facts.plan,
            parts=self._parts(health),
            lanes=tuple(lane.tree() for lane in self._lanes.values()),
            shared=self._shared,
            dead_letters=tuple(self._letters),
            processes=self._processes,
            reloads=_filled(ReloadStatistics, reloads, reason=line(reloads.reason, _TEXT)),
            scales=tuple(ScaleStatistics(**asdict(scale)) for scale in reloads.scales),
        )

    def _parts(self, health: Health) -> dict[str, PartHealth]:
        remedies = Remedies(self._facts.plan, {name: process.pid for name, process in self._processes.items()})
        parts = {}
        for name, (healthy, text) in health.components.items():
            holds_up = health.holds.get(name, "")
            warning, cause = health.warnings.get(name, ""), health.causes.get(name)
            advice = command = ""
            if holds_up or warning or not healthy:  # of those the healthy ones are slow
                advice, command = remedies.find(name, text, holds_up, cause, is_slow=healthy)
            parts[name] = PartHealth(
                healthy=healthy,
                message=text,
                holds_up=holds_up,
                seconds=health.seconds.get(name, 0.0),
                advice=advice,
                command=command,
                next_attempt_seconds=health.next_attempts.get(name, 0.0),
            )
        return parts

    def _ingest(self, counts: IntakeStatistics) -> IngestStatistics:
        return _filled(
            IngestStatistics,
            counts,
            received_bytes=counts.bytes,
            refused=dict(counts.refused_by),
            open_messages=counts.open,
            ways={way: WayStatistics(**asdict(one)) for way, one in counts.ways.items()},
            connections=dict(counts.connections),
            certificate_ends_at=counts.security_files.certificate_ends_at,
            token_ends_at=counts.security_files.token_ends_at,
            security_is_stale=counts.security_files.is_stale,
            link=_link(counts.link),
            sources={name: self._source(name, state) for name, state in counts.sources.items()},
            plugins={name: _plugin(state) for name, state in counts.plugins.items()},
        )

    def _source(self, name: str, state: SourceState) -> SourceStatistics:
        kind = self._facts.sources.get(name, "")
        return _filled(SourceStatistics, state, type=kind, fault=line(state.alarm, _TEXT))

    def _stage(self, name: str, counts: StageCounts) -> StageStatistics:
        return _filled(
            StageStatistics,
            counts,
            type=self._facts.stages.get(name.partition("/")[0], ""),
            sent=counts.forwarded,
            discarded={reason: count for reason, count in counts.counts._asdict().items() if count},
            busy_with=counts.step,
            busy_seconds=time.monotonic() - counts.since if counts.step else 0.0,
            work_seconds=counts.work.seconds,
            utilization=counts.work.share,
            wait_seconds=counts.waits,
            errors=_errors(counts.errors),
            link=_link(counts.link),
            calls=_calls(counts.calls),
            candidates=tuple(map(_candidate, counts.candidates)),
        )

    def _buffer(self, counts: BufferCounts) -> BufferStatistics:
        journal = _filled(JournalStatistics, counts, fault=line(counts.fault, _TEXT))
        return _filled(
            BufferStatistics,
            counts,
            received_bytes=counts.bytes_received,
            fault=line(counts.fault, _TEXT),
            journal=journal if self._facts.durable else None,
            outlets={name: self._outlet(name, outlet) for name, outlet in counts.outlets.items()},
        )

    def _outlet(self, name: str, counts: OutletCounts) -> OutletStatistics:
        return _filled(
            OutletStatistics,
            counts,
            sent_bytes=counts.bytes,
            waiting=counts.lag,
            waiting_bytes=counts.lag_bytes,
            oldest_age_seconds=counts.oldest_age,
            no_progress_seconds=counts.idle,
            full=counts.is_full,
            required=name not in self._facts.optional,
            fault=line(counts.fault, _TEXT),
            wait_seconds=counts.waits,
            delivery_age_seconds=counts.ages,
        )

    def _add_letters(self, lane: str, part: str, counts: DeadLetterStatistics | None) -> None:
        if counts is None:
            return
        self._letters += [
            DeadLetterCount(
                lane=lane,
                part=part,
                emitter=emitter,
                code=str(code),
                total=counts.by_reason.get((emitter, code), 0),
                forgotten=counts.forgotten_by.get((emitter, code), 0),
                reason=line(counts.reasons.get((emitter, code), "")),
            )
            for emitter, code in sorted({*counts.by_reason, *counts.forgotten_by})
        ]


def _filled(kind: type[T], counts: object, **own: object) -> T:
    """Return statistics with a value for each field: its `own`, else what the counts have under the same name."""
    names = _names_besides((kind, *own))
    make: Any = kind
    made: T = make(**{name: getattr(counts, name) for name in names}, **own)
    return made


@cache
def _names_besides(told: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the fields of a kind but those whose names come behind it."""
    kind, *own = told
    return tuple(name for name in kind.__struct_fields__ if name not in own)


def _link(counts: LinkCounts | None) -> LinkStatistics | None:
    if counts is None:
        return None
    age = max(0.0, time.time() - counts.since_ns / 1e9) if counts.since_ns else 0.0
    return LinkStatistics(events=counts.events, oldest_age_seconds=age, sent=counts.sent, resent=counts.resent)


def _calls(shape: CallShape | None) -> CallStatistics | None:
    if shape is None:
        return None
    room = shape.sizes.count * shape.max_events
    fill = shape.sizes.sum / room if room else 0.0
    return _filled(CallStatistics, shape, events=shape.sizes, fill=fill)


def _candidate(counts: CandidateCounts) -> CandidateStatistics:
    latest = tuple(_filled(DifferenceStatistics, difference) for difference in counts.latest)
    return _filled(CandidateStatistics, counts, latest=latest)


def _plugin(state: PluginState) -> PluginStatistics:
    return _filled(PluginStatistics, state, fault=line(state.alarm, _TEXT))


def _emitter(kind: str, counts: DeliveryStatistics) -> EmitterStatistics:
    from polku.runtime.watch import trouble

    own: Any = counts.emitter
    tries = own if isinstance(own, ResilienceStatistics) else None
    return _filled(
        EmitterStatistics,
        counts,
        type=kind,
        attempts=tries.attempts if tries else counts.calls,
        retries=tries.retries if tries else 0,
        circuit=str(tries.circuit) if tries else "closed",
        alarm=line(trouble(counts), _TEXT),
        work_seconds=counts.work.seconds,
        utilization=counts.work.share,
        next_attempt_seconds=tries.next_attempt if tries else 0.0,
        collection=_collection(counts.collection),
        errors=_errors(sorted([*(tries.errors if tries else ()), *counts.errors], key=_latest_first)),
    )


def _collection(held: CollectionCounts | None) -> CollectionStatistics | None:
    return None if held is None else _filled(CollectionStatistics, held, max_age_seconds=held.max_age)


def _latest_first(error: SeenError) -> int:
    return -error.time_ns


def _errors(errors: Sequence[SeenError]) -> tuple[ErrorStatistics, ...]:
    return tuple(ErrorStatistics(text=error.text, count=error.times, time_ns=error.time_ns) for error in errors)
