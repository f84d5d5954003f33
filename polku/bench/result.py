"""What a measurement found, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from polku.bench.ledger import Ledger
from polku.histogram import Histogram

if TYPE_CHECKING:
    from polku.bench.trial import Load

_PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass(frozen=True, slots=True)
class PartResult:
    """What a process of the pipeline used: CPU microseconds for each event, and private megabytes at the end."""

    cpu_us_per_event: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class EmitterResult:
    """What one emitter brought to the sink; `missing` the pipeline says that it delivered, or had left at the end."""

    delivered: int
    delivered_per_s: float
    duplicates: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a measurement found; counts are events, latencies milliseconds.

    `delivered` came to the sink, each counted once; `lost` was acknowledged and did not, although no rule of the
    pipeline left it out (None where that cannot be known: the pipeline makes events of its own, or nothing came to
    the sink). Acknowledged and delivered events a second count from the first message sent.

    `timeline` has, where it was asked for, seconds since then with the events acknowledged and delivered so far, five
    times a second. `distributions` has latencies (`accepted`, `end_to_end`) as milliseconds and how many events took so
    long; `picture` is the plan as HTML.
    """

    subject: str
    sent: int
    acked: int
    refused: int
    refusals: Mapping[str, int]
    failed: int
    unanswered: int
    delivered: int
    left_out: Mapping[str, int]
    lost: int | None
    duplicates: int
    reordered: int | None
    corrupted: int
    foreign: int
    acked_per_s: float
    delivered_per_s: float
    accepted_ms: Mapping[str, float]
    end_to_end_ms: Mapping[str, float]
    cpu_us_per_event: float
    memory_mb: float
    start_seconds: float
    parts: Mapping[str, PartResult]
    emitters: Mapping[str, EmitterResult]
    note: str = ""
    timeline: Sequence[tuple[float, int, int]] = ()
    distributions: Mapping[str, Sequence[tuple[float, int]]] = field(default_factory=dict)
    picture: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all of it in JSON's types, but for the picture."""
        told = asdict(self)
        del told["picture"]
        return told


def make_result(
    subject: str,
    load: Load,
    sent: Mapping[str, Any],
    got: Mapping[str, Any],
    report: Mapping[str, Any],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    start_seconds: float,
) -> Result:
    """Put together what generator, sink and pipeline have told."""
    acknowledged = Ledger.from_json(sent["ledger"])
    ledgers = {name: Ledger.from_json(one["ledger"]) for name, one in got.items()}
    union = Ledger(load.workload.batch)
    union.merge(ledgers.values())
    left_out = {name: count for name, count in sent["dropped"].items() if count}
    by_rule = sum(left_out.values())
    emitters = _emitters(report["emitters"], ledgers, {name: one["last"] - sent["first"] for name, one in got.items()})
    delivered = union.seen
    seconds = max((one["last"] for one in got.values()), default=0.0) - sent["first"]
    foreign = sum(one["foreign"] for one in got.values())
    latency = Histogram()
    for one in got.values():
        latency.merge(Histogram.from_json(one["end_to_end"]))
    accepted = Histogram.from_json(sent["accepted"])
    parts = _parts(before, after, sent["acked"])
    excused = by_rule + sum(map(_excused, report["emitters"].values()))
    lost, note = _lost(emitters, ledgers, union.missing(acknowledged) - excused, foreign)
    return Result(
        subject=subject,
        sent=sent["sent"],
        acked=sent["acked"],
        refused=sent["refused"],
        refusals=sent["refusals"],
        failed=sent["failed"],
        unanswered=sent["unanswered"],
        delivered=delivered,
        left_out=left_out,
        lost=lost,
        duplicates=sum(ledger.duplicates for ledger in ledgers.values()),
        reordered=None if load.workload.unary else sum(ledger.reordered for ledger in ledgers.values()),
        corrupted=sum(one["corrupted"] for one in got.values()),
        foreign=foreign,
        acked_per_s=_rate(sent["acked"], sent["last"] - sent["first"]),
        delivered_per_s=_rate(delivered, seconds),
        accepted_ms=_percentiles(accepted),
        end_to_end_ms=_percentiles(latency),
        cpu_us_per_event=sum(part.cpu_us_per_event for name, part in parts.items() if not name.startswith("others")),
        memory_mb=sum(part.memory_mb for name, part in parts.items() if not name.startswith("others")),
        start_seconds=round(start_seconds, 2),
        parts=parts,
        emitters=emitters,
        note=note or sent["example"],
        distributions={
            name: _counts(histogram) for name, histogram in (("accepted", accepted), ("end_to_end", latency))
        },
    )


def _emitters(
    reports: Mapping[str, Mapping[str, int]], ledgers: Mapping[str, Ledger], seconds: Mapping[str, float]
) -> dict[str, EmitterResult]:
    """Hold what the sink saw of each emitter against what the pipeline says that it delivered, or still had."""
    results = {}
    # Emitters that were kept may call themselves something else towards the sink.
    for name in reports if ledgers.keys() <= reports.keys() else ledgers:
        ledger, report = ledgers.get(name), reports.get(name, {})
        seen = ledger.seen if ledger else 0
        missing = max(0, report.get("delivered", 0) + report.get("left", 0) - seen)
        duplicates = ledger.duplicates if ledger else 0
        results[name] = EmitterResult(seen, _rate(seen, seconds.get(name, 0.0)), duplicates, missing)
    return results


def _lost(
    emitters: Mapping[str, EmitterResult], ledgers: Mapping[str, Ledger], nowhere: int, foreign: int
) -> tuple[int | None, str]:
    """Return how many acknowledged events are lost, or None, and why it cannot be known.

    An event is, if it came to no emitter for no known reason, or if the pipeline says that an emitter delivered it, and
    the sink has not seen it.
    """
    if not ledgers:
        return None, "nothing came to the sink: what the pipeline's own emitters delivered is not seen here"
    if foreign:
        return None, f"{foreign} events at the sink are the pipeline's own: what became of ours cannot be told by id"
    return max(0, nowhere, sum(emitter.missing for emitter in emitters.values())), ""


def _excused(report: Mapping[str, int]) -> int:
    """Return the events that an emitter did not deliver and tells so: dead letters, drops by rule, a journal's rest."""
    return sum(report.get(name, 0) for name in ("dead", "dropped", "journaled"))


def _parts(before: Mapping[str, Any], after: Mapping[str, Any], events: int) -> dict[str, PartResult]:
    parts = {}
    for name, (seconds, memory) in after.items():
        used = seconds - before.get(name, (0.0, 0))[0]
        parts[name] = PartResult(round(used / max(events, 1) * 1e6, 3), round(memory / 1e6, 1))
    return parts


def _percentiles(histogram: Histogram) -> dict[str, float]:
    found = {name: histogram.percentile(percent) for name, percent in _PERCENTILES.items()}
    return {name: round(seconds * 1e3, 3) for name, seconds in found.items() if seconds is not None}


def _counts(histogram: Histogram) -> list[tuple[float, int]]:
    """Return milliseconds, each with how many values were so large, or within 1.6 % less."""
    return [(round(seconds * 1e3, 3), count) for seconds, count in histogram.distribution().counts()]


def _rate(events: int, seconds: float) -> float:
    return round(events / seconds) if seconds > 0 else 0.0
