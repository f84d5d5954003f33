"""What two steps made of the same event, and in what that differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

from polku.batch.lineage import origins
from polku.contracts import Outcome
from polku.event.v1.event_pb2 import Event
from polku.text import counted, line

_MOST_NAMES = 8
_TEXT = 200


class Result(StrEnum):
    """Say how what new middleware made of an event compares with what the one in use made of it."""

    SAME = "same"
    DIFFERENT = "different"
    DROPPED = "dropped"
    """One of the two let it go on, and the other did not."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It was not compared: the new middleware was busy."""


class Made(NamedTuple):
    """What a step made of one event: those that go on, serialised, and why it was refused (empty: it was not)."""

    events: tuple[bytes, ...] = ()
    refused: str = ""


def made_of(given: Sequence[Event], outcome: Outcome, positions: Sequence[int]) -> list[Made]:
    """Return what became of the events at these positions of what a step was given."""
    places = _places(given, outcome, positions)
    refused = {dead.refusal.position: dead.refusal.message for dead in outcome.refused}
    return [
        Made(
            tuple(outcome.events[at].SerializeToString() for at in places[position]),
            refused.get(position, ""),
        )
        for position in positions
    ]


def compare(current: Made, candidate: Made) -> tuple[Result, str]:
    """Return how the two compare, and what differs: names of fields, and no values, which may be secret."""
    if candidate.refused or current.refused:
        if not candidate.refused:
            return Result.DIFFERENT, line(f"the one in use alone refuses it: {current.refused}", _TEXT)
        return (Result.SAME, "") if current.refused else (Result.FAILED, line(candidate.refused, _TEXT))
    before, after = len(current.events), len(candidate.events)
    if before != after:
        if not after:
            return Result.DROPPED, "the new one alone drops it"
        if not before:
            return Result.DROPPED, "the one in use alone drops it"
        return Result.DIFFERENT, f"{counted(before, 'event')} of the one in use, {after} of the new one"
    names = [
        name
        for old, new in zip(current.events, candidate.events, strict=True)
        if old != new
        for name in _differing(Event.FromString(old), Event.FromString(new))
    ]
    if not names:
        return Result.SAME, ""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - _MOST_NAMES} more" if len(unique) > _MOST_NAMES else ""
    return Result.DIFFERENT, line(", ".join(unique[:_MOST_NAMES]) + more, _TEXT)


def _places(given: Sequence[Event], outcome: Outcome, positions: Sequence[int]) -> dict[int, list[int]]:
    """Return for each position where in the outcome what was made of it stands."""
    if outcome.events is given and outcome.origins is None:
        return {position: [position] for position in positions}
    if outcome.kept is not None:
        before = list(accumulate(outcome.kept, initial=0))
        return {position: [before[position]] if outcome.kept[position] else [] for position in positions}
    found: dict[int, list[int]] = {position: [] for position in positions}
    for at, sources in enumerate(origins(given, outcome, range(len(outcome.events)))):
        for source in sources:
            if source in found:
                found[source].append(at)
    return found


def _only_in_one(old: Event, new: Event) -> set[str]:
    """Return the fields that are set in one of two events alone, as an empty message may be."""
    before, after = ({field.name for field, _ in event.ListFields()} for event in (old, new))
    return before ^ after


def _differing(old: Event, new: Event) -> Iterator[str]:
    """Yield the names of the fields that differ, and of entries of the metadata."""
    for field in Event.DESCRIPTOR.fields:
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after and field.name not in _only_in_one(old, new):
            continue
        if field.name == "metadata":
            for key in sorted({*before, *after}):
                if before.get(key) != after.get(key):
                    yield f"metadata.{key}"
        else:
            yield field.name
