"""Several rounds of one or two pipelines, taking turns, and what they come to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from polku.bench.result import Result
from polku.bench.trial import Load, Progress, Subject, measure

_COUNTED = ("sent", "acked", "refused", "failed", "unanswered", "delivered", "duplicates", "corrupted", "foreign")
_MEASURED = ("acked_per_s", "delivered_per_s", "cpu_us_per_event", "memory_mb", "start_seconds")


class Summary(NamedTuple):
    """What the rounds of one pipeline come to: counts are sums over all rounds, measurements are medians."""

    subject: str
    counts: dict[str, int | None]
    left_out: dict[str, int]
    medians: dict[str, float]
    accepted_ms: dict[str, float]
    end_to_end_ms: dict[str, float]
    parts: dict[str, dict[str, float]]
    emitters: dict[str, dict[str, float]]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return all of it in JSON's types."""
        return self._asdict()


def take_turns(
    subjects: Sequence[Subject],
    load: Load,
    rounds: int,
    progress: Callable[[str, int], Progress] = lambda label, number: lambda acked: None,
    *,
    over_time: bool = False,
) -> list[list[Result]]:
    """Measure all subjects in each round, so that the machine's moods hit all alike; return results by subject."""
    results: list[list[Result]] = [[] for _ in subjects]
    for number in range(rounds):
        for place, subject in enumerate(subjects):
            results[place].append(measure(subject, load, progress(subject.label, number), over_time=over_time))
    return results


def summarise(results: Sequence[Result]) -> Summary:
    """Sum up the rounds of one pipeline."""
    first = results[0]
    counts: dict[str, int | None] = {name: sum(getattr(result, name) for result in results) for name in _COUNTED}
    for name in ("lost", "reordered"):
        values = [getattr(result, name) for result in results]
        counts[name] = None if None in values else sum(values)
    left_out = [result.left_out for result in results]
    return Summary(
        subject=first.subject,
        counts=counts,
        left_out={
            name: sum(each.get(name, 0) for each in left_out) for name in sorted({n for e in left_out for n in e})
        },
        medians={name: statistics.median(getattr(result, name) for result in results) for name in _MEASURED},
        accepted_ms=_medians([result.accepted_ms for result in results]),
        end_to_end_ms=_medians([result.end_to_end_ms for result in results]),
        parts=_by_name([result.parts for result in results], ("cpu_us_per_event", "memory_mb")),
        emitters=_by_name([result.emitters for result in results], ("delivered", "delivered_per_s", "missing")),
        note=next((result.note for result in results if result.note), ""),
    )


def ratio(one: Sequence[Result], other: Sequence[Result]) -> float | None:
    """Return the median, over the rounds, of the second one's acknowledged rate over the first one's."""
    pairs = [second.acked_per_s / first.acked_per_s for first, second in zip(one, other, strict=True) if first.acked]
    return round(statistics.median(pairs), 3) if pairs else None


def _medians(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in values if name in each) for name in values[0]}


def _by_name(values: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        name: {
            field: round(statistics.median(getattr(each[name], field) for each in values if name in each), 3)
            for field in fields
        }
        for name in values[0]
    }
