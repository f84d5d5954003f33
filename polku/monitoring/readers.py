"""Read the values of metrics from the statistics of a pipeline, each with its labels."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from polku.histogram import Distribution
from polku.monitoring.stage_statistics import CallStatistics, StageStatistics
from polku.monitoring.statistics import (
    BufferStatistics,
    EmitterStatistics,
    IngestStatistics,
    LaneStatistics,
    OutletStatistics,
    PipelineStatistics,
    ScaleStatistics,
)

Value = float | Distribution

Readers: TypeAlias = Mapping[type, Callable[[Any], float | Distribution]]
"""Read a value from the statistics of a part, by their type."""


class Sample(NamedTuple):
    """One value of a metric; `labels` are those of the table, in its order."""

    labels: tuple[str, ...]
    value: Value


Read = Callable[[PipelineStatistics], Iterable[Sample]]


class Component(NamedTuple):
    """A part with its labels: `statistics` is one of the tree."""

    pipeline: str
    lane: str
    component: str
    kind: str
    type: str
    statistics: Any

    @property
    def labels(self) -> tuple[str, ...]:
        """The values of `COMPONENT`."""
        return self[:5]


PIPELINE = ("pipeline",)
COMPONENT = ("pipeline", "lane", "component", "kind", "type")
CANDIDATE = (*COMPONENT, "middleware", "candidate", "mode", "result")
LANE = ("pipeline", "lane")
EMITTER = ("pipeline", "lane", "emitter")
PART = ("pipeline", "component")
LETTERS = ("pipeline", "lane", "component", "emitter", "code")
CIRCUITS = {"closed": 0, "half_open": 1, "open": 2}


def components(tree: PipelineStatistics) -> tuple[Component, ...]:
    """Return every part of a pipeline; most metrics ask for them, so they are kept with the tree."""
    kept = tree.__dict__
    if "components" not in kept:
        kept["components"] = tuple(_components(tree))
    found: tuple[Component, ...] = kept["components"]
    return found


def _components(tree: PipelineStatistics) -> Iterator[Component]:
    for lane in tree.lanes:
        yield from _components_of(tree.pipeline, lane)
    for name, stage in tree.shared.items():
        yield Component(tree.pipeline, "", name, "stage", stage.type, stage)


def _components_of(pipeline: str, lane: LaneStatistics) -> Iterator[Component]:
    if lane.ingest is not None:
        yield Component(pipeline, lane.name, "ingest", "ingest", "gateway", lane.ingest)
        for name, source in lane.ingest.sources.items():
            yield Component(pipeline, lane.name, f"source:{name}", "source", source.type, source)
        for name, plugin in lane.ingest.plugins.items():
            yield Component(pipeline, lane.name, f"ingestor:{name}", "plugin", "ingestor", plugin)
    for name, stage in lane.stages.items():
        yield Component(pipeline, lane.name, name, "stage", stage.type, stage)
    if lane.buffer is not None:
        kind = "ring" if lane.buffer.journal is None else "journal"
        yield Component(pipeline, lane.name, "buffer", "buffer", kind, lane.buffer)
    for name, emitter in lane.emitters.items():
        yield Component(pipeline, lane.name, f"emitter:{name}", "emitter", emitter.type, emitter)


def of_parts(readers: Readers) -> Read:
    """Read a value from each part that has one, by the type of its statistics."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for one in components(tree):
            reader = readers.get(type(one.statistics))
            if reader is not None:
                yield Sample(one.labels, reader(one.statistics))

    return read


def of_kind(kind: str, reader: Callable[[Any], float]) -> Read:
    """Read a value from each part of a kind."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        return (Sample(one.labels, reader(one.statistics)) for one in components(tree) if one.kind == kind)

    return read


def of_outlets(reader: Callable[[OutletStatistics], float | Distribution]) -> Read:
    """Read a value from each outlet."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for lane in tree.lanes:
            for name, outlet in lane.buffer.outlets.items() if lane.buffer is not None else ():
                yield Sample((tree.pipeline, lane.name, name), reader(outlet))

    return read


def of_emitters(reader: Callable[[EmitterStatistics], float]) -> Read:
    """Read a value from each emitter."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for lane in tree.lanes:
            for name, emitter in lane.emitters.items():
                yield Sample((tree.pipeline, lane.name, name), reader(emitter))

    return read


def of_ingests(reader: Callable[[IngestStatistics], float]) -> Read:
    """Read a value from the ingest of each lane."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for lane in tree.lanes:
            if lane.ingest is not None:
                yield Sample((tree.pipeline, lane.name), reader(lane.ingest))

    return read


def of_journals(reader: Callable[[Any], float]) -> Read:
    """Read a value from each journal."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for lane in tree.lanes:
            if lane.buffer is not None and lane.buffer.journal is not None:
                yield Sample((tree.pipeline, lane.name), reader(lane.buffer.journal))

    return read


def of_pipeline(reader: Callable[[PipelineStatistics], float]) -> Read:
    """Read a value of the whole pipeline."""
    return lambda tree: [Sample((tree.pipeline,), reader(tree))]


def sent_bytes(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the bytes that have left for each emitter."""
    for lane in tree.lanes:
        for name, outlet in lane.buffer.outlets.items() if lane.buffer is not None else ():
            yield Sample(_labels_of_emitter(tree, lane, name), outlet.sent_bytes)


def errors(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the events on which middleware, or a delivery, failed."""
    for one in components(tree):
        if isinstance(one.statistics, StageStatistics):
            yield Sample((*one.labels, "middleware_failed", "processing"), one.statistics.dead)
        elif isinstance(one.statistics, EmitterStatistics):
            yield Sample((*one.labels, "delivery_failed", "sending"), one.statistics.failed)


def discarded(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the events that were discarded, by reason."""
    for one in components(tree):
        if isinstance(one.statistics, StageStatistics):
            for reason, count in one.statistics.discarded.items():
                yield Sample((*one.labels, "true", reason), count)
        elif isinstance(one.statistics, BufferStatistics):
            yield Sample((*one.labels, "false", "buffer_full"), one.statistics.overflowed)


def queue_waits(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield how long events waited in front of each stage and each emitter."""
    for one in components(tree):
        if isinstance(one.statistics, StageStatistics):
            yield Sample(one.labels, one.statistics.wait_seconds)
    for lane in tree.lanes:
        for name, outlet in lane.buffer.outlets.items() if lane.buffer is not None else ():
            yield Sample(_labels_of_emitter(tree, lane, name), outlet.wait_seconds)


def of_calls(reader: Callable[[CallStatistics], float | Distribution]) -> Read:
    """Read a value from each stage that is a model."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for one in components(tree):
            if isinstance(one.statistics, StageStatistics) and one.statistics.calls is not None:
                yield Sample(one.labels, reader(one.statistics.calls))

    return read


def of_candidates(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the events that new middleware had next to the one in use, by what became of them."""
    for one in components(tree):
        if isinstance(one.statistics, StageStatistics):
            for new in one.statistics.candidates:
                for result, count in new.counts.items():
                    yield Sample((*one.labels, new.middleware, new.candidate, new.mode, result), count)


def _labels_of_emitter(tree: PipelineStatistics, lane: LaneStatistics, name: str) -> tuple[str, ...]:
    kind = lane.emitters[name].type if name in lane.emitters else ""
    return tree.pipeline, lane.name, f"emitter:{name}", "emitter", kind


def refused(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the events that were refused, by code."""
    for one in components(tree):
        if isinstance(one.statistics, IngestStatistics):
            for code, count in one.statistics.refused.items():
                yield Sample((tree.pipeline, one.lane, str(code)), count)


def dead_letters(attribute: str) -> Read:
    """Read a count of dead letters."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for one in tree.dead_letters:
            labels = (tree.pipeline, one.lane, one.part, one.emitter, one.code)
            yield Sample(labels, getattr(one, attribute))

    return read


def of_processes(attribute: str) -> Read:
    """Read a value from each process."""

    def read(tree: PipelineStatistics) -> Iterator[Sample]:
        for name, process in tree.processes.items():
            yield Sample((tree.pipeline, name), float(getattr(process, attribute)))

    return read


def reloads(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the changes of the running pipeline, by what became of them."""
    yield Sample((tree.pipeline, "done"), tree.reloads.done)
    yield Sample((tree.pipeline, "refused"), tree.reloads.refused)


def lanes(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield how many lanes there are, and, where that changes by need, how many are wanted, and may be."""
    scale = next((scale for scale in tree.scales if scale.of == "lanes"), None)
    if scale is None:
        yield Sample((tree.pipeline, "now"), len(tree.lanes))
        return
    for value, number in _numbers(scale):
        yield Sample((tree.pipeline, value), number)


def replicas(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the same of the replicas of stages of which there are as many as are needed."""
    for scale in tree.scales:
        if scale.of != "lanes":
            for value, number in _numbers(scale):
                yield Sample((tree.pipeline, scale.of, value), number)


def scalings(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield the changes of these numbers, by what became of them."""
    for scale in tree.scales:
        for result, number in (("up", scale.ups), ("down", scale.downs), ("failed", scale.failures)):
            yield Sample((tree.pipeline, scale.of, result), number)


def _numbers(scale: ScaleStatistics) -> Iterator[tuple[str, int]]:
    yield from (("now", scale.number), ("wanted", scale.wanted), ("min", scale.least), ("max", scale.most))


def health_of_parts(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield whether each part is well."""
    for name, part in tree.parts.items():
        yield Sample((tree.pipeline, name), float(part.healthy))


def plan_info(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield what was built."""
    plan = tree.plan
    digest = hashlib.sha256(repr(plan).encode()).hexdigest()[:12]
    yield Sample((tree.pipeline, digest, str(plan.lanes), plan.ack, "journal" if plan.journal else "memory"), 1.0)


def build_info(tree: PipelineStatistics) -> Iterator[Sample]:
    """Yield what runs here."""
    yield Sample((tree.pipeline, tree.version, platform.python_version(), tree.runtime), 1.0)


RECEIVED: Readers = {
    IngestStatistics: lambda one: one.received,
    StageStatistics: lambda one: one.received,
    BufferStatistics: lambda one: one.received,
    EmitterStatistics: lambda one: one.confirmed + one.failed,
}
SENT: Readers = {
    IngestStatistics: lambda one: one.accepted,
    StageStatistics: lambda one: one.sent,
    EmitterStatistics: lambda one: one.confirmed,
}
WORK: Readers = {
    StageStatistics: lambda one: one.work_seconds,
    EmitterStatistics: lambda one: one.work_seconds,
}
UTILIZATION: Readers = {
    StageStatistics: lambda one: one.utilization,
    EmitterStatistics: lambda one: one.utilization,
}
RECEIVED_BYTES: Readers = {
    IngestStatistics: lambda one: one.received_bytes,
    BufferStatistics: lambda one: one.received_bytes,
}


def of_buffers(reader: Callable[[BufferStatistics], float]) -> Read:
    """Read a value from each buffer."""
    return of_parts({BufferStatistics: reader})
