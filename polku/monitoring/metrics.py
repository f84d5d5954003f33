"""The table of metrics: name, type, labels, unit, meaning, and what of the statistics is told.

Names follow Vector's component specification where it has one. Labels are bounded by the plan: component, kind, type,
pipeline, lane, emitter, code and a few closed sets; never a source of an event, a type, an id or a client's address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from polku.monitoring.readers import (
    CIRCUITS,
    COMPONENT,
    EMITTER,
    LANE,
    LETTERS,
    PART,
    PIPELINE,
    RECEIVED,
    RECEIVED_BYTES,
    SENT,
    Read,
    build_info,
    dead_letters,
    discarded,
    errors,
    health_of_parts,
    of_buffers,
    of_emitters,
    of_journals,
    of_kind,
    of_outlets,
    of_parts,
    of_pipeline,
    of_processes,
    refused,
    sent_bytes,
)
from polku.monitoring.statistics import IngestStatistics, StageStatistics


class Metric(NamedTuple):
    """One row of the table; `kind` is counter, gauge or histogram; a counter's name ends in `_total` when written."""

    name: str
    kind: str
    labels: tuple[str, ...]
    unit: str
    meaning: str
    read: Read


_SECONDS = tuple(number / 1_000 for number in (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000))
_SECONDS += (30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
BOUNDS: Mapping[str, tuple[float, ...]] = {"seconds": _SECONDS, "events": _EVENTS}


def _counter(name: str, labels: tuple[str, ...], unit: str, meaning: str, read: Read) -> Metric:
    return Metric(name, "counter", labels, unit, meaning, read)


def _gauge(name: str, labels: tuple[str, ...], unit: str, meaning: str, read: Read) -> Metric:
    return Metric(name, "gauge", labels, unit, meaning, read)


def _histogram(name: str, labels: tuple[str, ...], unit: str, meaning: str, read: Read) -> Metric:
    return Metric(name, "histogram", labels, unit, meaning, read)


METRICS: tuple[Metric, ...] = (
    _counter(
        "polku_component_received_events",
        COMPONENT,
        "events",
        "events that a part has taken in; an emitter's have an outcome",
        of_parts(RECEIVED),
    ),
    _counter(
        "polku_component_received_bytes",
        COMPONENT,
        "bytes",
        "their size, where the part knows it",
        of_parts(RECEIVED_BYTES),
    ),
    _counter(
        "polku_component_sent_events",
        COMPONENT,
        "events",
        "events that a part has handed on; of the ingest: acknowledged; of an emitter: confirmed",
        of_parts(SENT),
    ),
    _counter(
        "polku_component_sent_bytes",
        COMPONENT,
        "bytes",
        "the size of events that have left the buffer for an emitter",
        sent_bytes,
    ),
    _counter(
        "polku_component_errors",
        (*COMPONENT, "error_type", "stage"),
        "events",
        "events on which middleware, or a delivery, failed permanently",
        errors,
    ),
    _counter(
        "polku_component_discarded_events",
        (*COMPONENT, "intentional", "reason"),
        "events",
        "events that middleware discarded, or a full buffer by its rule",
        discarded,
    ),
    _counter(
        "polku_refused_events",
        ("pipeline", "lane", "code"),
        "events",
        "events that were refused, and messages that were refused whole, by the code of the answer",
        refused,
    ),
    _histogram(
        "polku_ack_seconds",
        COMPONENT,
        "seconds",
        "how long an event waited for its acknowledgement",
        of_parts({IngestStatistics: lambda one: one.ack_seconds}),
    ),
    _histogram(
        "polku_batch_events",
        COMPONENT,
        "events",
        "how many events came in together",
        of_parts({IngestStatistics: lambda one: one.batch_events}),
    ),
    _gauge(
        "polku_open_messages",
        COMPONENT,
        "messages",
        "messages that have no answer yet",
        of_parts({IngestStatistics: lambda one: one.open_messages}),
    ),
    _gauge(
        "polku_stage_held_events",
        COMPONENT,
        "events",
        "events that middleware keeps back, as an Aggregator does",
        of_parts({StageStatistics: lambda one: one.held}),
    ),
    _gauge(
        "polku_stage_busy_seconds",
        COMPONENT,
        "seconds",
        "how long middleware has been at work on its batch",
        of_parts({StageStatistics: lambda one: one.busy_seconds}),
    ),
    _gauge(
        "polku_buffer_events",
        COMPONENT,
        "events",
        "events that the buffer holds, each once",
        of_buffers(lambda one: one.events),
    ),
    _gauge("polku_buffer_byte_size", COMPONENT, "bytes", "their size", of_buffers(lambda one: one.bytes)),
    _gauge(
        "polku_buffer_max_events",
        COMPONENT,
        "events",
        "events that one emitter may lag",
        of_buffers(lambda one: one.capacity),
    ),
    _counter(
        "polku_buffer_discarded_events",
        COMPONENT,
        "events",
        "events that fell to the overflow rule",
        of_buffers(lambda one: one.overflowed),
    ),
    _counter(
        "polku_buffer_duplicate_batches",
        COMPONENT,
        "batches",
        "batches that came again and were known",
        of_buffers(lambda one: one.duplicates),
    ),
    _counter(
        "polku_buffer_unroutable_events",
        COMPONENT,
        "events",
        "events for emitters that the pipeline does not have",
        of_buffers(lambda one: one.unroutable),
    ),
    _gauge(
        "polku_outlet_waiting_events",
        EMITTER,
        "events",
        "events that an emitter has not confirmed",
        of_outlets(lambda one: one.waiting),
    ),
    _gauge("polku_outlet_waiting_bytes", EMITTER, "bytes", "their size", of_outlets(lambda one: one.waiting_bytes)),
    _gauge(
        "polku_outlet_in_flight_events",
        EMITTER,
        "events",
        "those of them that are with the emitter",
        of_outlets(lambda one: one.in_flight),
    ),
    _gauge(
        "polku_outlet_oldest_age_seconds",
        EMITTER,
        "seconds",
        "how long the first of them has been in the pipeline; 0 where none waits",
        of_outlets(lambda one: one.oldest_age_seconds),
    ),
    _gauge(
        "polku_outlet_no_progress_seconds",
        EMITTER,
        "seconds",
        "how long none has left although some wait",
        of_outlets(lambda one: one.no_progress_seconds),
    ),
    _gauge(
        "polku_outlet_full",
        EMITTER,
        "0 or 1",
        "whether the emitter's share of the buffer has no room",
        of_outlets(lambda one: float(one.full)),
    ),
    _counter(
        "polku_outlet_dropped_events",
        EMITTER,
        "events",
        "events of the emitter that fell to the overflow rule",
        of_outlets(lambda one: one.dropped),
    ),
    _counter(
        "polku_outlet_unreadable_events",
        EMITTER,
        "events",
        "events that were damaged on disk",
        of_outlets(lambda one: one.unreadable),
    ),
    _histogram(
        "polku_delivery_age_seconds",
        EMITTER,
        "seconds",
        "the age of events, from the gateway on, when an emitter had confirmed or refused them",
        of_outlets(lambda one: one.delivery_age_seconds),
    ),
    _counter(
        "polku_emitter_attempts", EMITTER, "calls", "calls of the destination", of_emitters(lambda one: one.attempts)
    ),
    _counter(
        "polku_emitter_retries",
        EMITTER,
        "calls",
        "those of them that tried again",
        of_emitters(lambda one: one.retries),
    ),
    _gauge(
        "polku_emitter_circuit",
        EMITTER,
        "0, 1, 2",
        "the circuit breaker: closed, half open, open",
        of_emitters(lambda one: CIRCUITS.get(one.circuit, 0)),
    ),
    _gauge(
        "polku_emitter_up",
        EMITTER,
        "0 or 1",
        "whether the destination takes events",
        of_emitters(lambda one: float(not one.alarm)),
    ),
    _counter(
        "polku_dead_letters",
        LETTERS,
        "events",
        "events that became dead letters; those without an emitter got to none",
        dead_letters("total"),
    ),
    _counter(
        "polku_dead_letters_forgotten",
        LETTERS,
        "events",
        "dead letters that had to go for want of room",
        dead_letters("forgotten"),
    ),
    _gauge(
        "polku_journal_events", LANE, "events", "events that the journal holds", of_journals(lambda one: one.events)
    ),
    _gauge("polku_journal_bytes", LANE, "bytes", "their size on disk", of_journals(lambda one: one.bytes)),
    _counter(
        "polku_journal_commits",
        LANE,
        "transactions",
        "transactions that were written",
        of_journals(lambda one: one.commits),
    ),
    _gauge(
        "polku_journal_writable",
        LANE,
        "0 or 1",
        "whether the journal can be written",
        of_journals(lambda one: float(not one.fault)),
    ),
    _counter(
        "polku_source_records",
        COMPONENT,
        "records",
        "records that were pulled",
        of_kind("source", lambda one: one.records),
    ),
    _gauge(
        "polku_source_lag_records",
        COMPONENT,
        "records",
        "records that wait to be pulled, as far as known",
        of_kind("source", lambda one: one.lag),
    ),
    _gauge(
        "polku_source_up",
        COMPONENT,
        "0 or 1",
        "whether the source can be pulled from",
        of_kind("source", lambda one: float(not one.fault)),
    ),
    _gauge(
        "polku_plugin_up",
        COMPONENT,
        "0 or 1",
        "whether the plugin takes calls",
        of_kind("plugin", lambda one: float(not one.fault)),
    ),
    _counter("polku_plugin_calls", COMPONENT, "calls", "calls of the plugin", of_kind("plugin", lambda one: one.calls)),
    _counter(
        "polku_plugin_failures",
        COMPONENT,
        "calls",
        "those of them that failed",
        of_kind("plugin", lambda one: one.failures),
    ),
    _counter("polku_part_restarts", PART, "restarts", "restarts of a part's process", of_processes("restarts")),
    _counter("polku_part_cpu_seconds", PART, "seconds", "CPU time of a part's process", of_processes("cpu_seconds")),
    _gauge(
        "polku_part_memory_bytes", PART, "bytes", "private memory of a part's process", of_processes("memory_bytes")
    ),
    _gauge("polku_part_healthy", PART, "0 or 1", "whether health finds the part well", health_of_parts),
    _gauge(
        "polku_healthy",
        PIPELINE,
        "0 or 1",
        "whether health finds every part well",
        of_pipeline(lambda tree: float(tree.healthy)),
    ),
    _gauge(
        "polku_ready",
        PIPELINE,
        "0 or 1",
        "whether the pipeline takes events now",
        of_pipeline(lambda tree: float(tree.ready)),
    ),
    _gauge(
        "polku_uptime_seconds",
        PIPELINE,
        "seconds",
        "time since the start of the pipeline",
        of_pipeline(lambda tree: tree.uptime_seconds),
    ),
    _gauge("polku_build_info", ("pipeline", "version", "python", "runtime"), "1", "what runs here", build_info),
)


def written_name(metric: Metric) -> str:
    """Return the name as Prometheus shows it."""
    return f"{metric.name}_total" if metric.kind == "counter" else metric.name


def describe_metrics() -> list[str]:
    """Return the rows of the documents' table."""
    rows = ["| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{written_name(metric)}` | {metric.kind} | {labels} | {metric.unit} | {metric.meaning} |")
    return rows
