"""The table of metrics: name, type, labels, unit, meaning, and what of the statistics is told.

Names follow Vector's component specification where it has one. Labels are bounded by the plan: component, kind, type,
pipeline, lane, emitter, code and a few closed sets; never a source of an event, a type, an id or a client's address.
"""

from __future__ import annotations

from polku.monitoring.buffer_metrics import BUFFER_METRICS
from polku.monitoring.metric import Metric, counter, gauge
from polku.monitoring.readers import (
    COMPONENT,
    PART,
    PIPELINE,
    build_info,
    health_of_parts,
    lanes,
    of_kind,
    of_pipeline,
    of_processes,
    plan_info,
    reloads,
    replicas,
    scalings,
)
from polku.monitoring.stage_metrics import STAGE_METRICS

METRICS: tuple[Metric, ...] = (
    *STAGE_METRICS,
    *BUFFER_METRICS,
    counter(
        "polku_source_records",
        COMPONENT,
        "records",
        "records that were pulled",
        of_kind("source", lambda one: one.records),
    ),
    gauge(
        "polku_source_lag_records",
        COMPONENT,
        "records",
        "records that wait to be pulled, as far as known",
        of_kind("source", lambda one: one.lag),
    ),
    gauge(
        "polku_source_up",
        COMPONENT,
        "0 or 1",
        "whether the source can be pulled from",
        of_kind("source", lambda one: float(not one.fault)),
    ),
    gauge(
        "polku_plugin_up",
        COMPONENT,
        "0 or 1",
        "whether the plugin takes calls",
        of_kind("plugin", lambda one: float(not one.fault)),
    ),
    counter("polku_plugin_calls", COMPONENT, "calls", "calls of the plugin", of_kind("plugin", lambda one: one.calls)),
    counter(
        "polku_plugin_failures",
        COMPONENT,
        "calls",
        "those of them that failed",
        of_kind("plugin", lambda one: one.failures),
    ),
    counter("polku_part_restarts", PART, "restarts", "restarts of a part's process", of_processes("restarts")),
    counter("polku_part_cpu_seconds", PART, "seconds", "CPU time of a part's process", of_processes("cpu_seconds")),
    gauge("polku_part_memory_bytes", PART, "bytes", "private memory of a part's process", of_processes("memory_bytes")),
    gauge("polku_part_healthy", PART, "0 or 1", "whether health finds the part well", health_of_parts),
    gauge(
        "polku_healthy",
        PIPELINE,
        "0 or 1",
        "whether health finds every part well",
        of_pipeline(lambda tree: float(tree.healthy)),
    ),
    gauge(
        "polku_ready",
        PIPELINE,
        "0 or 1",
        "whether the pipeline takes events now",
        of_pipeline(lambda tree: float(tree.ready)),
    ),
    counter(
        "polku_reloads",
        (*PIPELINE, "result"),
        "changes",
        "changes of the pipeline while it runs: done, or refused, which changed nothing",
        reloads,
    ),
    gauge(
        "polku_reload_done_timestamp_seconds",
        PIPELINE,
        "seconds",
        "when the latest of those was done that were, in Unix time; 0: none was",
        of_pipeline(lambda tree: tree.reloads.done_at),
    ),
    gauge(
        "polku_lanes",
        (*PIPELINE, "value"),
        "lanes",
        "how many lanes there are (`now`); with `lanes(min=…, max=…)` also how many are `wanted`, at least and at most",
        lanes,
    ),
    gauge(
        "polku_replicas",
        (*PIPELINE, "stage", "value"),
        "replicas",
        "how many replicas a stage with `replicas=(…, …)` has in each lane `now`, `wanted`, at least and at most",
        replicas,
    ),
    counter(
        "polku_scalings",
        (*PIPELINE, "of", "result"),
        "changes",
        "changes of these numbers by need: up, down, or failed, which changed nothing",
        scalings,
    ),
    gauge(
        "polku_uptime_seconds",
        PIPELINE,
        "seconds",
        "time since the start of the pipeline",
        of_pipeline(lambda tree: tree.uptime_seconds),
    ),
    gauge(
        "polku_plan_info",
        ("pipeline", "plan", "lanes", "ack", "buffer"),
        "1",
        "what was built: a digest of the parts, the lanes (0: one on each node), when clients are answered",
        plan_info,
    ),
    gauge("polku_build_info", ("pipeline", "version", "python", "runtime"), "1", "what runs here", build_info),
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
