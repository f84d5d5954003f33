"""The rows of the target table: what is measured, what is wanted, and how a row is judged."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from polku.bench import Load, Result, Subject, Workload
from polku.bench.trial import BARE, BUILT_IN
from tests.bench.native_relay import NATIVE_RELAY

FILE = str(Path(__file__).with_name("pipelines.py"))
_CLUSTER = "prod-eu"  # on each message, as in the specification's own example


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
    """Some measurements and what they come to."""

    name: str
    cells: Sequence[Cell]
    judge: Callable[[Found], list[Line]]


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


def reported(name: str, cell: Cell) -> Row:
    """Report the rate and the CPU of one measurement."""

    def judge(found: Found) -> list[Line]:
        bad = faults(found, cell.key)
        text = f"{median(found, cell.key):,.0f}/s, {median(found, cell.key, 'cpu_us_per_event'):.2f} µs"
        return [Line(name, "reported", f"{text}{'; ' + bad if bad else ''}", "")]

    return Row(name, [cell], judge)


def _latency(name: str, cell: Cell) -> Row:
    def judge(found: Found) -> list[Line]:
        p50, p99 = (latency(found, cell.key, percentile) for percentile in ("p50", "p99"))
        used, bad = median(found, cell.key, "cpu_us_per_event"), faults(found, cell.key)
        text = f"{median(found, cell.key, 'acked_per_s'):,.0f}/s, {used:.1f} µs, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        return [Line(name, "reported", f"{text}{'; ' + bad if bad else ''}", "")]

    return Row(name, [cell], judge)


def _ratio(name: str, one: Cell, other: Cell, least: float, field: str = "delivered_per_s") -> Row:
    """Compare two measurements by the median of their ratios within each round."""

    def judge(found: Found) -> list[Line]:
        pairs = zip(found[one.key], found[other.key], strict=True)
        ratio = statistics.median(getattr(a, field) / max(1.0, getattr(b, field)) for a, b in pairs)
        rates = f"{median(found, one.key, field):,.0f}/s of {median(found, other.key, field):,.0f}/s"
        costs = " of ".join(f"{median(found, cell.key, 'cpu_us_per_event'):.2f}" for cell in (one, other))
        bad = faults(found, one.key)
        text = f"{ratio:.2f} ({rates}; {costs} µs){'; ' + bad if bad else ''}"
        return [Line(name, f"≥ {least}", text, at_least(ratio, least))]

    return Row(name, [one, other], judge)


def costs_more(name: str, one: Cell, other: Cell, most: float) -> Row:
    """Compare two measurements by the median of what the first costs more in each round, in µs of CPU an event."""

    def judge(found: Found) -> list[Line]:
        pairs = zip(found[one.key], found[other.key], strict=True)
        more = statistics.median(a.cpu_us_per_event - b.cpu_us_per_event for a, b in pairs)
        costs = " and ".join(f"{median(found, cell.key, 'cpu_us_per_event'):.2f}" for cell in (one, other))
        return [Line(name, f"≤ {most} µs", f"{more:.2f} µs ({costs} µs an event)", at_most(more, most))]

    return Row(name, [one, other], judge)


def _delay(name: str, one: Cell, other: Cell, most: float) -> Row:
    """Compare the median latencies of two measurements within each round."""

    def judge(found: Found) -> list[Line]:
        pairs = zip(found[one.key], found[other.key], strict=True)
        ratio = statistics.median((a.accepted_ms["p50"] or 0.0) / (b.accepted_ms["p50"] or 1.0) for a, b in pairs)
        delays = " of ".join(f"{latency(found, cell.key, 'p50'):.2f}" for cell in (one, other))
        return [Line(name, f"≤ {most}", f"{ratio:.2f} (p50 {delays} ms)", at_most(ratio, most))]

    return Row(name, [one, other], judge)


def rows(events: int, calls: int) -> list[Row]:
    """Return the rows that need rounds, for so many events on streams and so many unary calls."""
    return [*_stream_rows(events), *_small_rows(events // 5), *_unary_rows(calls)]


def _stream_rows(events: int) -> list[Row]:
    stream = Load(workload=Workload(cluster=_CLUSTER), events=events)
    large = Load(workload=Workload(cluster=_CLUSTER, size=1_114), events=events // 5, in_flight=8)
    eight = Load(workload=Workload(cluster=_CLUSTER), events=events * 2, connections=8)
    inline, ray = Cell("inline", Subject(), stream), Cell("ray", Subject(runtime="ray"), stream)
    two, one = (
        Subject(file=f"{FILE}:chained", runtime="ray", environment={"BENCH_LANES": count}) for count in ("2", "1")
    )
    wide = Subject(file=f"{FILE}:variant", environment={"BENCH_EMITTERS": "3"})
    return [
        reported("inline", inline),
        reported("for comparison: a bare relay on grpc.aio", Cell("bare", BARE, stream)),
        _ratio("inline, of a bare relay on the same server", inline, Cell("relay", NATIVE_RELAY, stream), 0.85),
        reported("inline, pass-through", Cell("pass", Subject(file=f"{BUILT_IN}:pass_through"), stream)),
        _ratio("Ray, four actors, of inline", ray, inline, 0.75),
        _ratio(
            "Ray, two chained lanes, 8 connections, of one lane",
            Cell("two lanes", two, eight),
            Cell("one lane", one, eight),
            1.6,
        ),
        _ratio(
            "payloads of 1 kB, inline, of the bare relay on the same server",
            Cell("1 kB", Subject(), large),
            Cell("relay 1 kB", NATIVE_RELAY, large),
            0.8,
        ),
        *(
            _ratio(
                f"durable of ring, {cell.key}",
                Cell(f"durable {cell.key}", Subject(file=f"{FILE}:durable", runtime=cell.key), stream),
                cell,
                0.75,
            )
            for cell in (inline, ray)
        ),
        _ratio(
            "fan-out to 3 sinks, each, of one",
            Cell("wide", wide, stream),
            Cell("narrow", Subject(file=f"{FILE}:variant"), stream),
            0.6,
        ),
    ]


def _small_rows(events: int) -> list[Row]:
    load = Load(workload=Workload(batch=10, cluster=_CLUSTER), events=events)
    bare = Cell("bare small", BARE, load)
    return [
        _ratio("10 events a message, inline, of a bare relay on grpc.aio", Cell("small", Subject(), load), bare, 3.0),
        _ratio(
            "10 events a message, Ray, of a bare relay on grpc.aio",
            Cell("small ray", Subject(runtime="ray"), load),
            bare,
            1.2,
        ),
    ]


def _unary_rows(calls: int) -> list[Row]:
    workload = Workload(batch=1, unary=True, cluster=_CLUSTER)
    load, crowd = Load(workload=workload, events=calls), Load(workload=workload, events=calls, in_flight=128)
    single = Load(workload=workload, events=calls // 4, in_flight=1)
    inline, ray, grpcio = Subject(), Subject(runtime="ray"), Subject(environment={"POLKU_DOOR": "grpcio"})
    lane = Subject(file=f"{FILE}:chained", runtime="ray", environment={"BENCH_LANES": "1"})
    one_by_one, echo = Cell("unary 1", inline, single), Cell("echo 1", NATIVE_RELAY, single)
    return [
        _ratio(
            f"unary, inline, {load.in_flight} in flight, of an echo on grpc.aio",
            Cell(f"unary {load.in_flight}", inline, load),
            Cell(f"bare unary {load.in_flight}", BARE, load),
            least,
            "acked_per_s",
        )
        for load, least in ((load, 4.0), (crowd, 8.0))
    ] + [
        _latency("unary, inline, 32 in flight", Cell("unary 32", inline, load)),
        _latency("unary, inline, 32 in flight, grpcio's server", Cell("grpcio 32", grpcio, load)),
        _latency("unary, inline, one by one", one_by_one),
        _delay("unary, inline, one by one, of an echo on the same server", one_by_one, echo, 1.3),
        _latency("unary, Ray, four actors, 32 in flight", Cell("unary ray", ray, load)),
        _latency("unary, Ray, a chained lane, 32 in flight", Cell("unary lane", lane, load)),
        _latency("unary, Ray, four actors, one by one", Cell("unary ray 1", ray, single)),
    ]


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
