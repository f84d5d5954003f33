"""The rows of the target table: what is measured, what is wanted, and how a row is judged."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from polku import Hub
from polku.bench import Load, Result, Subject, Workload
from polku.bench.trial import BARE, BUILT_IN

FILE = str(Path(__file__).with_name("pipelines.py"))
UNARY = Workload(batch=1, unary=True)


class Line(NamedTuple):
    """One line of the table."""

    what: str
    target: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Cell:
    """One measurement, made in every round."""

    key: str
    subject: Subject
    load: Load


Found = Mapping[str, Sequence[Result]]


@dataclass(frozen=True)
class Row:
    """Some measurements and what they come to; one that cannot be made yet says why in `skip`."""

    name: str
    cells: Sequence[Cell]
    judge: Callable[[Found], list[Line]]
    skip: str = ""


def median(found: Found, key: str, field: str = "delivered_per_s") -> float:
    return float(statistics.median(getattr(result, field) for result in found[key]))


def latency(found: Found, key: str, percentile: str, field: str = "accepted_ms") -> float:
    values = [getattr(result, field).get(percentile) for result in found[key]]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else float("nan")


def faults(found: Found, key: str) -> str:
    lost = sum(result.lost or 0 for result in found[key])
    doubled = sum(result.duplicates for result in found[key])
    broken = sum(result.corrupted + result.failed + result.unanswered for result in found[key])
    reordered = sum(result.reordered or 0 for result in found[key])
    text = [f"{count} {name}" for count, name in ((lost, "LOST"), (doubled, "doubled"), (broken, "broken"))]
    text.append(f"{reordered} reordered")
    return ", ".join(one for one in text if not one.startswith("0 "))


def at_least(value: float, target: float) -> str:
    return "met" if value >= target else f"missed by {1 - value / target:.0%}"


def at_most(value: float, target: float) -> str:
    return "met" if value <= target else f"missed by {value / target - 1:.0%}"


def _rate(name: str, key: str, subject: Subject, load: Load, rate: float, cpu: float | None, skip: str = "") -> Row:
    def judge(found: Found) -> list[Line]:
        measured, used = median(found, key), median(found, key, "cpu_us_per_event")
        verdict = at_least(measured, rate)
        target, text = f"≥ {rate:,.0f}/s", f"{measured:,.0f}/s, {used:.2f} µs"
        if cpu is not None:
            target = f"{target}, ≤ {cpu} µs"
            verdict = f"rate {verdict}; CPU {at_most(used, cpu)}"
        bad = faults(found, key)
        return [Line(name, target, f"{text}{'; ' + bad if bad else ''}", verdict)]

    return Row(name, [Cell(key, subject, load)], judge, skip)


def _latency_row(name: str, key: str, subject: Subject, load: Load, rate: float, p50_ms: float, skip: str = "") -> Row:
    def judge(found: Found) -> list[Line]:
        measured, p50 = median(found, key, "acked_per_s"), latency(found, key, "p50")
        target = [f"≥ {rate:,.0f}/s"] if rate else []
        verdict = [f"rate {at_least(measured, rate)}"] if rate else []
        target += [f"p50 ≤ {p50_ms} ms"] if p50_ms else []
        verdict += [f"p50 {at_most(p50, p50_ms)}"] if p50_ms else []
        bad = faults(found, key)
        text = (
            f"{measured:,.0f}/s, p50 {p50:.2f} ms, p99 {latency(found, key, 'p99'):.2f} ms{'; ' + bad if bad else ''}"
        )
        return [Line(name, ", ".join(target) or "reported", text, "; ".join(verdict))]

    return Row(name, [Cell(key, subject, load)], judge, skip)


def _ratio(name: str, one: Cell, other: Cell, least: float, field: str = "delivered_per_s", skip: str = "") -> Row:
    """Compare two measurements by the median of their ratios within each round."""

    def judge(found: Found) -> list[Line]:
        pairs = zip(found[one.key], found[other.key], strict=True)
        ratio = statistics.median(getattr(a, field) / max(1.0, getattr(b, field)) for a, b in pairs)
        rates = f"{median(found, one.key, field):,.0f}/s of {median(found, other.key, field):,.0f}/s"
        bad = faults(found, one.key)
        return [
            Line(name, f"≥ {least:.0%}", f"{ratio:.0%} ({rates}){'; ' + bad if bad else ''}", at_least(ratio, least))
        ]

    return Row(name, [one, other], judge, skip)


def rows(events: int, calls: int) -> list[Row]:
    """Return the rows that need rounds, for so many events on streams and so many unary calls."""
    stream, one_by_one = Load(events=events), Load(workload=UNARY, events=calls // 4, in_flight=1)
    unary, crowd = Load(workload=UNARY, events=calls), Load(workload=UNARY, events=calls, in_flight=128)
    small = Load(workload=Workload(batch=10), events=events // 5)
    inline, ray = Subject(), Subject(runtime="ray")
    grpcio = Subject(environment={"POLKU_DOOR": "grpcio"})
    no_lanes = "" if hasattr(Hub, "lanes") and hasattr(Hub, "chain") else "Hub().chain().lanes(n) is not there yet"
    chained = Subject(file=f"{FILE}:chained", runtime="ray")
    one_lane = Subject(file=f"{FILE}:chained", runtime="ray", environment={"BENCH_LANES": "1"})
    wide = Subject(file=f"{FILE}:variant", environment={"BENCH_EMITTERS": "3"})
    narrow = Subject(file=f"{FILE}:variant")
    bare = Row("bare", [Cell("bare", BARE, stream)], lambda found: _compare_bare(found))
    return [
        _rate("Ray, 4 actors, 32 batches in flight", "ray", ray, stream, 300_000, 4.2),
        _rate("inline, same workload", "inline", inline, stream, 550_000, 1.6),
        bare,
        _rate(
            "Ray, two chained lanes, 8 connections",
            "lanes",
            chained,
            Load(events=events * 2, connections=8),
            620_000,
            2.0,
            no_lanes,
        ),
        _rate("inline, pass-through", "pass", Subject(file=f"{BUILT_IN}:pass_through"), stream, 900_000, None),
        _ratio(
            "unary, inline, grpc.aio door, 32 in flight, of a bare echo",
            Cell("unary", grpcio, unary),
            Cell("unary bare", BARE, unary),
            0.9,
            "acked_per_s",
        ),
        _ratio(
            "unary, inline, grpc.aio door, one by one, of a bare echo",
            Cell("unary 1", grpcio, one_by_one),
            Cell("unary bare 1", BARE, one_by_one),
            0.9,
            "acked_per_s",
        ),
        _latency_row("unary, inline, 32 in flight", "native", inline, unary, 30_000, 1.0),
        _latency_row("unary, inline, one by one", "native 1", inline, one_by_one, 5_000, 0.2),
        _latency_row("unary, inline, 128 in flight", "native 128", inline, crowd, 0.0, 0.0),
        _latency_row("unary, Ray, 32 in flight", "unary ray", ray, unary, 5_000, 0.0),
        _latency_row("unary, Ray, a chained lane", "unary lane", one_lane, unary, 5_000, 0.0, no_lanes),
        _latency_row("unary, Ray, one by one", "unary ray 1", ray, one_by_one, 0.0, 4.0),
        _rate("10 events a message, inline", "small", inline, small, 60_000, None),
        _rate("10 events a message, Ray", "small ray", ray, small, 30_000, None),
        *(
            _ratio(
                f"durable of ring, {runtime}",
                Cell(f"durable {runtime}", Subject(file=f"{FILE}:durable", runtime=runtime), stream),
                Cell(runtime, Subject(runtime=runtime), stream),
                0.7,
            )
            for runtime in ("inline", "ray")
        ),
        _ratio("fan-out to 3 sinks, each, of one", Cell("wide", wide, stream), Cell("narrow", narrow, stream), 0.6),
    ]


def _compare_bare(found: Found) -> list[Line]:
    rate, used = median(found, "bare"), median(found, "bare", "cpu_us_per_event")
    return [Line("for comparison: a bare relay, same run", "", f"{rate:,.0f}/s, {used:.2f} µs", "")]


def latency_cells(found: Found, seconds: float) -> list[Cell]:
    """Return the open-loop measurements at half of what each runtime was found to deliver."""
    subjects = {"inline": Subject(), "ray": Subject(runtime="ray")}
    return [
        Cell(f"half {name}", subject, Load(seconds=seconds, rate=median(found, name) / 2))
        for name, subject in subjects.items()
    ]


def latency_lines(found: Found) -> list[Line]:
    lines = []
    for name in ("inline", "ray"):
        rate = median(found, f"half {name}", "acked_per_s")
        for title, field in (("accepted", "accepted_ms"), ("end to end", "end_to_end_ms")):
            percentiles = [latency(found, f"half {name}", p, field) for p in ("p50", "p99", "p99.9")]
            text = " / ".join(f"{value:.2f}" for value in percentiles)
            what = f"{name}, open loop at 50 % ({rate:,.0f}/s), {title}, p50 / p99 / p99.9"
            lines.append(Line(what, "reported", f"{text} ms", ""))
    return lines


def work_cells(most: int) -> list[Cell]:
    """Return the measurements of cost against work: events up to `most`, sizes, stages, emitters."""
    counts = [count for count in (10_000, 100_000, 1_000_000, 10_000_000) if count <= most]
    cells = [Cell(f"events {count:,}", Subject(), Load(events=count)) for count in counts]
    for payload in (64, 1024, 16 * 1024, 64 * 1024):
        batch = max(10, min(1_000, 2_000_000 // payload))
        total = max(batch * 4, min(most, 200_000_000 // payload, 200_000))
        load = Load(workload=Workload(size=payload + 90, batch=batch), events=total, in_flight=8)
        cells.append(Cell(f"payload {payload} bytes", Subject(), load))
    for name, variable in (("stages", "BENCH_STAGES"), ("emitters", "BENCH_EMITTERS")):
        for number in (1, 2, 4, 8, 16):
            subject = Subject(file=f"{FILE}:variant", environment={variable: str(number)})
            cells.append(Cell(f"{number} {name}", subject, Load(events=min(most, 100_000))))
    return cells


def work_lines(found: Found, cells: Sequence[Cell]) -> list[Line]:
    lines = []
    for cell in cells:
        used, memory = median(found, cell.key, "cpu_us_per_event"), median(found, cell.key, "memory_mb")
        bad = faults(found, cell.key)
        text = f"{used:.2f} µs an event, {memory:.0f} MB{'; ' + bad if bad else ''}"
        lines.append(Line(f"inline, {cell.key}", "flat or explained", text, ""))
    return lines
