"""Write a Grafana board and Prometheus' alert rules from POLKU's table of metrics: `python generate.py [FOLDER]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from polku.monitoring.metric import Metric
from polku.monitoring.metrics import METRICS, written_name

TABLE = {metric.name.removeprefix("polku_"): metric for metric in METRICS}
UNITS = {"seconds": "s", "bytes": "bytes", "0 to 1": "percentunit"}
WIDTH, HEIGHT = 8, 7
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'pipeline=~"$pipeline"'


class Panel(NamedTuple):
    """A graph: its title, the metrics on it, and by which labels their series are told apart."""

    title: str
    metrics: tuple[str, ...]
    by: tuple[str, ...]


class Alert(NamedTuple):
    """A rule: how long its expression must hold, how urgent it is, and what is said about it."""

    name: str
    expr: str
    seconds: int
    severity: str
    summary: str


PART = ("lane", "component")
EMITTER = ("lane", "emitter")
ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel("Ready and healthy", ("ready", "healthy"), ("pipeline",)),
        Panel("Events in and out a second", ("component_received_events", "component_sent_events"), PART),
        Panel(
            "Oldest event that waits",
            ("outlet_oldest_age_seconds", "outlet_no_progress_seconds", "emitter_collect_seconds"),
            EMITTER,
        ),
        Panel("Age of delivered events", ("delivery_age_seconds",), EMITTER),
        Panel("Unhealthy parts", ("part_healthy",), ("component",)),
        Panel("Runs for", ("uptime_seconds", "build_info", "plan_info"), ("pipeline", "version", "runtime", "plan")),
    ),
    "Ingest": (
        Panel("Refused events, by code", ("refused_events",), ("lane", "code")),
        Panel("Time to the acknowledgement", ("ack_seconds",), ("lane",)),
        Panel("Events that come together", ("batch_events",), ("lane",)),
        Panel("Messages without an answer", ("open_messages",), ("lane",)),
        Panel("Bytes in and out a second", ("component_received_bytes", "component_sent_bytes"), PART),
        Panel("Failed authentications", ("authentication_failures", "authentication_slowed"), ("lane",)),
        Panel(
            "Files of certificates and tokens",
            ("certificate_end_timestamp_seconds", "token_end_timestamp_seconds", "security_files_stale"),
            ("lane",),
        ),
        Panel("Records pulled", ("source_records",), PART),
        Panel("Records that wait at a source", ("source_lag_records",), PART),
        Panel("Sources and plugins that work", ("source_up", "plugin_up"), PART),
        Panel("Calls of plugins", ("plugin_calls", "plugin_failures"), PART),
    ),
    "Stages": (
        Panel("Utilization", ("utilization",), PART),
        Panel("Time at work", ("component_work_seconds",), PART),
        Panel("Wait in front of a part", ("queue_wait_seconds",), PART),
        Panel("At one batch for", ("stage_busy_seconds",), PART),
        Panel("Held back", ("stage_held_events",), PART),
        Panel("Discarded, by reason", ("component_discarded_events",), (*PART, "reason")),
        Panel("Errors", ("component_errors",), (*PART, "error_type")),
        Panel("Events in a call of a model", ("model_call_events",), PART),
        Panel("Time of a call of a model", ("model_call_seconds",), PART),
        Panel("Calls of models that were made again", ("model_call_retries",), PART),
        Panel("New middleware that is tried, by result", ("candidate_events",), (*PART, "candidate", "result")),
    ),
    "Buffer": (
        Panel("Events in the buffer", ("buffer_events", "buffer_max_event_size"), ("lane",)),
        Panel("Bytes in the buffer", ("buffer_byte_size", "journal_bytes"), ("lane",)),
        Panel("Events in and out of the buffer a second", ("buffer_received_events", "buffer_sent_events"), ("lane",)),
        Panel(
            "Bytes in and out of the buffer a second",
            ("buffer_received_event_bytes", "buffer_sent_event_bytes"),
            ("lane",),
        ),
        Panel("Discarded for want of room", ("buffer_discarded_events", "outlet_dropped_events"), ("lane", "emitter")),
        Panel("Known and unroutable", ("buffer_duplicate_batches", "buffer_unroutable_events"), ("lane",)),
        Panel("Events in the journal", ("journal_events",), ("lane",)),
        Panel("Transactions a second", ("journal_commits",), ("lane",)),
        Panel("Journal writable", ("journal_writable",), ("lane",)),
        Panel("Damaged on disk", ("outlet_unreadable_events",), EMITTER),
    ),
    "Emitters": (
        Panel("Events that wait", ("outlet_waiting_events", "outlet_in_flight_events"), EMITTER),
        Panel("Bytes that wait", ("outlet_waiting_bytes",), EMITTER),
        Panel("Calls and retries", ("emitter_attempts", "emitter_retries"), EMITTER),
        Panel("Up, full, and circuit (2: open)", ("emitter_up", "outlet_full", "emitter_circuit"), EMITTER),
        Panel("Next attempt, in seconds", ("emitter_next_attempt_seconds",), EMITTER),
        Panel("Dead letters", ("dead_letters", "dead_letters_forgotten"), ("emitter", "code")),
    ),
    "Processes": (
        Panel("CPU", ("part_cpu_seconds",), ("component",)),
        Panel("Memory", ("part_memory_bytes",), ("component",)),
        Panel("Restarts", ("part_restarts",), ("component",)),
        Panel("Reloads, by result", ("reloads",), ("pipeline", "result")),
        Panel("When the latest reload was done", ("reload_done_timestamp_seconds",), ("pipeline",)),
        Panel("Lanes", ("lanes",), ("pipeline", "value")),
        Panel("Replicas that change by need", ("replicas",), ("pipeline", "stage", "value")),
        Panel("Changes by need, by result", ("scalings",), ("pipeline", "of", "result")),
    ),
}

ALERTS = (
    Alert("PolkuNotReady", "polku_ready == 0", 60, "critical", "{{ $labels.pipeline }} takes no events"),
    Alert("PolkuUnhealthy", "polku_healthy == 0", 300, "warning", "a part of {{ $labels.pipeline }} is unhealthy"),
    Alert(
        "PolkuDestinationAway",
        "polku_emitter_circuit == 2 or polku_emitter_up == 0",
        300,
        "warning",
        "the destination of {{ $labels.emitter }} takes nothing",
    ),
    Alert(
        "PolkuNoProgress",
        "polku_outlet_no_progress_seconds > 60 + polku_emitter_collect_seconds",
        60,
        "warning",
        "nothing has left for {{ $labels.emitter }} for {{ $value | humanizeDuration }}",
    ),
    Alert(
        "PolkuLagging",
        "polku_outlet_oldest_age_seconds > 300 + polku_emitter_collect_seconds",
        300,
        "warning",
        "an event has waited for {{ $labels.emitter }} for {{ $value | humanizeDuration }}",
    ),
    Alert(
        "PolkuShareFull",
        "polku_outlet_full == 1",
        60,
        "critical",
        "the share of {{ $labels.emitter }} is full",
    ),
    Alert(
        "PolkuEventsDropped",
        "increase(polku_outlet_dropped_events_total[10m]) > 0",
        0,
        "warning",
        "events for {{ $labels.emitter }} fell to its overflow rule",
    ),
    Alert(
        "PolkuEventsDamaged",
        "increase(polku_outlet_unreadable_events_total[10m]) > 0",
        0,
        "critical",
        "events for {{ $labels.emitter }} were damaged on disk: run `polku journal verify`",
    ),
    Alert(
        "PolkuDeadLetters",
        "increase(polku_dead_letters_total[10m]) > 0",
        0,
        "warning",
        "dead letters ({{ $labels.code }}, {{ $labels.emitter }}): look at them with `polku dlq list`",
    ),
    Alert(
        "PolkuDeadLettersForgotten",
        "increase(polku_dead_letters_forgotten_total[10m]) > 0",
        0,
        "critical",
        "dead letters ({{ $labels.code }}, {{ $labels.emitter }}) went for want of room",
    ),
    Alert(
        "PolkuRefusing",
        "sum by (pipeline, lane) (rate(polku_refused_events_total[5m]))"
        ' > 0.05 * sum by (pipeline, lane) (rate(polku_component_received_events_total{kind="ingest"}[5m]))',
        300,
        "warning",
        "{{ $labels.pipeline }} refuses more than 5 % of what comes",
    ),
    Alert(
        "PolkuGuessing",
        "increase(polku_authentication_slowed_total[5m]) > 0",
        0,
        "warning",
        "an address fails to authenticate at {{ $labels.pipeline }} again and again",
    ),
    Alert(
        "PolkuFilesStale",
        "polku_security_files_stale == 1",
        60,
        "warning",
        "a file of certificates or tokens of {{ $labels.pipeline }} cannot be used; its last good content stays in use",
    ),
    Alert(
        "PolkuCertificateEnds",
        "polku_certificate_end_timestamp_seconds > 0 and polku_certificate_end_timestamp_seconds < time() + 14 * 86400",
        600,
        "warning",
        "the certificate of {{ $labels.pipeline }} ends within 14 days",
    ),
    Alert(
        "PolkuTokenEnds",
        "polku_token_end_timestamp_seconds > 0 and polku_token_end_timestamp_seconds < time() + 14 * 86400",
        600,
        "warning",
        "the last token of a principal of {{ $labels.pipeline }} ends within 14 days: its log names it",
    ),
    Alert(
        "PolkuReloadRefused",
        'increase(polku_reloads_total{result="refused"}[15m]) > 0',
        0,
        "warning",
        "a change of {{ $labels.pipeline }} was refused: it runs as it was; `polku health` has the reason",
    ),
    Alert(
        "PolkuScrapeFails",
        'up{job=~".*polku.*"} == 0',
        120,
        "critical",
        "{{ $labels.instance }} cannot be scraped: it is away, or does not know the token",
    ),
    Alert("PolkuJournalFault", "polku_journal_writable == 0", 30, "critical", "a journal cannot be written"),
    Alert("PolkuSourceAway", "polku_source_up == 0", 300, "warning", "{{ $labels.component }} cannot be pulled from"),
    Alert("PolkuPluginAway", "polku_plugin_up == 0", 60, "warning", "{{ $labels.component }} takes no calls"),
    Alert(
        "PolkuStageStuck",
        "polku_stage_busy_seconds > 30",
        0,
        "warning",
        "{{ $labels.component }} ({{ $labels.type }}) is at one batch for {{ $value | humanizeDuration }}",
    ),
    Alert("PolkuSaturated", "polku_utilization > 0.95", 900, "info", "{{ $labels.component }} is at work all the time"),
    Alert(
        "PolkuRestarts",
        "increase(polku_part_restarts_total[15m]) > 2",
        0,
        "critical",
        "{{ $labels.component }} was restarted again and again",
    ),
)


def expressions(metric: Metric, by: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the expressions that show a metric, each with what its series are called."""
    labels = [label for label in by if label in metric.labels]
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    short = metric.name.removeprefix("polku_").replace("_", " ")
    group = f"by ({', '.join(labels)}) " if labels else ""
    if metric.kind == "histogram":
        buckets = ", ".join([*labels, "le"])
        for percent in (50, 99):
            rate = f"sum by ({buckets}) (rate({metric.name}_bucket{{{CHOSEN}}}[$__rate_interval]))"
            yield f"histogram_quantile({percent / 100}, {rate})", f"p{percent} {legend}"
    elif metric.kind == "counter":
        yield f"sum {group}(rate({written_name(metric)}{{{CHOSEN}}}[$__rate_interval]))", f"{short} {legend}"
    else:
        worst = "min" if metric.unit == "0 or 1" and metric.name != "polku_outlet_full" else "max"
        yield f"{worst} {group}({metric.name}{{{CHOSEN}}})", f"{short} {legend}"


def board() -> dict[str, Any]:
    """Return the board, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}, "panels": []})
        for number, panel in enumerate(row):
            place = {"x": number % 3 * WIDTH, "y": top + 1 + number // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append({**_graph(panel), "gridPos": place})
        top += 1 + -(-len(row) // 3) * HEIGHT
    for number, one in enumerate(panels, 1):
        one["id"] = number
    return {
        "title": "POLKU",
        "uid": "polku",
        "tags": ["polku"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_variable("datasource"), _variable("pipeline")]},
        "panels": panels,
    }


def _graph(panel: Panel) -> dict[str, Any]:
    metrics = [TABLE[name] for name in panel.metrics]
    shown = [found for metric in metrics for found in expressions(metric, panel.by)]
    unit = UNITS.get(metrics[0].unit, "short")
    if metrics[0].kind == "counter":
        unit = {"s": "percentunit", "bytes": "Bps"}.get(unit, "cps")
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": "\n".join(f"{written_name(metric)}: {metric.meaning}" for metric in metrics),
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expr, "legendFormat": legend.strip()}
            for number, (expr, legend) in enumerate(shown)
        ],
    }


def _variable(name: str) -> dict[str, Any]:
    if name == "datasource":
        return {"name": name, "type": "datasource", "query": "prometheus"}
    query = f"label_values(polku_ready, {name})"
    more = {"includeAll": True, "multi": True, "refresh": 2, "current": {"text": "All", "value": "$__all"}}
    return {"name": name, "type": "query", "datasource": SOURCE, "query": query, **more}


def rules() -> str:
    """Return the alert rules, as Prometheus reads them."""
    lines = ["# Made by generate.py; the thresholds are a beginning, for you to choose.", "groups:", "- name: polku"]
    lines.append("  rules:")
    for alert in ALERTS:
        lines += [f"  - alert: {alert.name}", f"    expr: {json.dumps(alert.expr)}", f"    for: {alert.seconds}s"]
        lines += [f"    labels: {{severity: {alert.severity}}}", "    annotations:"]
        lines.append(f"      summary: {json.dumps(alert.summary)}")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Write both files."""
    (folder / "polku-board.json").write_text(json.dumps(board(), indent=1) + "\n", encoding="utf-8")
    (folder / "polku-alerts.yaml").write_text(rules(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
