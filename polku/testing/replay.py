"""Traffic that was recorded, sent through a pipeline again; and what another version of the pipeline makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from polku.emit.json_form import event_fields
from polku.event.v1.event_pb2 import Event
from polku.testing.trial.clock import VirtualClock
from polku.testing.trial.given import Given, Pause
from polku.testing.trial.outcome import Outcome
from polku.testing.trial.run import run

if TYPE_CHECKING:
    from polku.hub import Hub

_TOGETHER = 256

Fates = dict[str, dict[str, Any]]
"""By event id what became of it: `to` has by emitter the events that it got, the rest are sentences, sorted."""


class Change(NamedTuple):
    """One event of which two versions of a pipeline make something else: what, and both of it, as texts."""

    event_id: str
    what: str
    before: str
    after: str


def replay(
    hub: Hub,
    events: Sequence[Event],
    *,
    speed: float | None = 1.0,
    timeout: float = 3600.0,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Send recorded events through the pipeline of a hub, with recorders in place of its emitters.

    Between them as much virtual time passes as lay between their timestamps, divided by `speed`; None: none at all. It
    may take `timeout` real seconds. `progress` is called with the number of events that were sent so far.
    """
    start = events[0].timestamp_unix_ns if events else 0
    clock = VirtualClock(start) if start else VirtualClock()
    return run(hub, list(_paced(events, speed)), clock=clock, timeout=timeout, progress=progress)


def fates_of(outcome: Outcome) -> Fates:
    """Return what became of each event; those that the pipeline made itself are named by their place at an emitter."""
    fates: Fates = {event.id: {"to": {}} for event in outcome.sent}
    sent = set(fates)
    for emitter, events in outcome.delivered.items():
        made = 0
        for event in events:
            fields = event_fields(event)
            fields.pop("route_to", None)  # it is in `to`
            name = event.id
            if name not in sent:
                made += 1
                name = f"(made here, number {made} at {emitter})"
                del fields["id"]
            fates.setdefault(name, {"to": {}})["to"].setdefault(emitter, []).append(fields)
    for event_id, what, sentence in _sentences(outcome):
        fates.setdefault(event_id, {"to": {}}).setdefault(what, []).append(sentence)
    for fate in fates.values():
        for what in ("dropped", "dead", "refused", "held"):
            if what in fate:
                fate[what].sort()
    return fates


def compare(before: Fates, after: Fates) -> list[Change]:
    """Return what differs, event by event, in the order of the first one's events."""
    changes = []
    for event_id in dict.fromkeys([*before, *after]):
        old, new = before.get(event_id, {"to": {}}), after.get(event_id, {"to": {}})
        if old != new:
            changes += [Change(event_id, *difference) for difference in _differences(old, new)]
    return changes


def summary(outcome: Outcome) -> list[str]:
    """Return a line for each emitter and for each reason for which events did not get to one."""
    counts: Counter[str] = Counter()
    for _, what, sentence in _sentences(outcome):
        counts[f"{what}: {sentence.partition(': ')[0]}"] += 1
    width = max(map(len, [*outcome.delivered, *counts]), default=0)
    lines = [f"{name:<{width}}  {len(events)}" for name, events in outcome.delivered.items()]
    return lines + [f"{name:<{width}}  {count}" for name, count in sorted(counts.items())]


def _paced(events: Iterable[Event], speed: float | None) -> Iterator[Given]:
    if speed is None:
        yield from _together(events)
        return
    latest = 0
    for event in events:
        at = event.timestamp_unix_ns
        if latest and at > latest:
            yield Pause((at - latest) / 1e9 / speed)
        latest = max(latest, at)
        yield event


def _together(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Yield messages of many events, each id once in it."""
    group: dict[str, Event] = {}
    for event in events:
        if group and (len(group) == _TOGETHER or event.id in group):
            yield list(group.values())
            group = {}
        group[event.id] = event
    if group:
        yield list(group.values())


def _sentences(outcome: Outcome) -> Iterator[tuple[str, str, str]]:
    for event, middleware, reason in outcome.dropped:
        yield event.id, "dropped", f"{middleware} ({reason})"
    for letter in outcome.dead:
        where = f"{letter.emitter}: " if letter.emitter else ""
        yield letter.event.id, "dead", f"{where}{letter.code}: {letter.reason}"
    for refused in outcome.refused:
        if refused.event is not None:
            yield refused.event.id, "refused", f"{refused.code}: {refused.message}"
    for emitter, events in outcome.held.items():
        for event in events:
            yield event.id, "held", emitter


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if set(old["to"]) != set(new["to"]):
        yield "to", _names(old["to"]), _names(new["to"])
    for emitter in sorted(set(old["to"]) & set(new["to"])):
        first, second = old["to"][emitter], new["to"][emitter]
        if len(first) != len(second):
            yield f"times at {emitter}", str(len(first)), str(len(second))
        for one, other in zip(first, second, strict=False):
            for path, was, is_now in _fields(one, other):
                yield f"{path} at {emitter}", was, is_now
    for what in ("dropped", "dead", "refused", "held"):
        if old.get(what) != new.get(what):
            yield what, "; ".join(old.get(what, [])) or "-", "; ".join(new.get(what, [])) or "-"


def _fields(one: Mapping[str, Any], other: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*one, *other]):
        was, is_now = one.get(name), other.get(name)
        if was == is_now:
            continue
        if isinstance(was or {}, Mapping) and isinstance(is_now or {}, Mapping):
            yield from _fields(was or {}, is_now or {}, f"{before}{name}.")
        else:
            yield f"{before}{name}", _json(was), _json(is_now)


def _names(to: Mapping[str, Any]) -> str:
    return ", ".join(sorted(to)) or "-"


def _json(value: object) -> str:
    return "-" if value is None else msgspec.json.encode(value).decode()
